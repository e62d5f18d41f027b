"""The pages of users: sign-in, keys, and the design that all pages share."""
