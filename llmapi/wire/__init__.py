"""Beneath the application: connections, their bytes, and what clients may do with them."""
