"""What was said: the history of every chat, completion and embedding request."""
