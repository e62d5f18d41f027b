"""How long texts and usage are kept, and how they are taken away for good."""
