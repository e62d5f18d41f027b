"""What was used, by API."""
