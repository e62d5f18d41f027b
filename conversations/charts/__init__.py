"""Numbers over time, drawn."""
