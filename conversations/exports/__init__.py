"""The history as files."""
