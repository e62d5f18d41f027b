"""Public ids: what clients see in place of primary keys."""

import secrets
import string

ALPHABET = string.digits + string.ascii_letters


def public_id(prefix: str) -> str:
    """`prefix` and 24 random base-62 characters (142 bits)."""
    return prefix + "".join(secrets.choice(ALPHABET) for _ in range(24))


def conversation_id() -> str:
    return public_id("conv_")


def message_id() -> str:
    return public_id("msg_")
