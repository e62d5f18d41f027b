"""The engine: torch and transformers only. It has never heard of Django, HTTP or users' names."""
