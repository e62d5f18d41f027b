"""What users read of their own history. Nothing of anybody else is in reach of what is in here."""
