"""How much may be used: requests and tokens per minute, requests at once, and token budgets.

`limiter.Limiter` is what the door talks to. What is counted stands in a store: that of this process
(`memory`), or Redis for all processes together (`shared`).
"""
