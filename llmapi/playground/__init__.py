"""The playground: a page that chats with the model through the API."""
