"""The OpenAI-style door and the model behind it."""
