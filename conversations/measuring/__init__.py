"""A history that nobody made, of any size, to measure with."""
