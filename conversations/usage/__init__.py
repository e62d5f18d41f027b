"""What was used: completions, folded by the hour, and what they sum up to."""
