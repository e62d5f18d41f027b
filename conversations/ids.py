"""Public ids: what clients see in place of primary keys."""

import secrets
import string

ALPHABET = string.digits + string.ascii_letters
LENGTH = 24


def public_id(prefix: str) -> str:
    """`prefix` and 24 random base-62 characters (142 bits)."""
    # One look at the kernel's random numbers: each lets go of the interpreter's lock, and a thread
    # of a busy server waits for its return.
    number = secrets.randbelow(len(ALPHABET) ** LENGTH)
    characters = []
    for _ in range(LENGTH):
        number, place = divmod(number, len(ALPHABET))
        characters.append(ALPHABET[place])
    return prefix + "".join(characters)


def conversation_id() -> str:
    return public_id("conv_")


def message_id() -> str:
    return public_id("msg_")
