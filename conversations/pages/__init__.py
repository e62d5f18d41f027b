"""The pages that show users their own history and usage."""
