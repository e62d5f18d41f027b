"""The table of bad input: one line for each mistake, with the status, the code and the param that
it gets, on both databases."""
