"""The pages of staff: what they see, judge, export and erase, each by their rights."""
