"""Requests that nobody thought of: hypothesis makes them from the fields of the serializers.

`make test` tries a few, always the same; `make fuzz` others, as many as FUZZ_EXAMPLES says.
"""
