"""The history by API, in OpenAI's shapes: stored chats, conversations and their items."""
