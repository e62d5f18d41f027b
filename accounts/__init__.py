"""Users, keys, authentication and limits. Imports no other app of the house."""
