"""The tree of messages: what a client said finds its place in it, answers hang below."""
