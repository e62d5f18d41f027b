"""The web processes that share a database: which of them live, and what they do beside requests."""
