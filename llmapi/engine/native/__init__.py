"""The decoder in C: built once per machine, called through ctypes."""
