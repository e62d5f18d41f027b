"""The format of API keys. No Django.

    sk-PPPPPPPPSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSCCCCCC
       8 public 32 secret (190 bits)           6 checksum

All base 62. The checksum is the CRC-32 of everything before it, so that a key that was mistyped or
cut is refused without a query, and scanners for leaked secrets can tell a key from a look-alike.
"""

import hashlib
import hmac
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
PREFIX = "sk-"
PUBLIC_ID_LENGTH = 8
SECRET_LENGTH = 32
CHECKSUM_LENGTH = 6
KEY_LENGTH = len(PREFIX) + PUBLIC_ID_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH

LIKE_A_KEY = rf"\b{PREFIX}[0-9A-Za-z]{{{PUBLIC_ID_LENGTH}}}(?=[0-9A-Za-z]{{8}})"
"""The beginning, with the public id, of what is a key or a mistyped one."""

_FORMAT = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{KEY_LENGTH - len(PREFIX)}}}", re.ASCII)

_ANYWHERE = re.compile(rf"({LIKE_A_KEY})[0-9A-Za-z]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """A key of the right form. Its repr does not show it."""

    text: str = field(repr=False)

    @property
    def public_id(self) -> str:
        """8 characters, not secret: how the database finds the key."""
        return self.text[len(PREFIX) : len(PREFIX) + PUBLIC_ID_LENGTH]

    @property
    def last_four(self) -> str:
        """Of the checksum: they say nothing that the secret could be guessed from."""
        return self.text[-4:]

    @property
    def digest(self) -> str:
        return digest(self.text)


def new_key() -> ParsedKey:
    """A fresh random key."""
    length = PUBLIC_ID_LENGTH + SECRET_LENGTH
    body = PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(length))
    return ParsedKey(body + checksum(body))


def parse(text: str) -> ParsedKey | None:
    """None if `text` is no key: wrong length, alphabet or checksum."""
    if not _FORMAT.fullmatch(text):
        return None
    if not is_equal(text[-CHECKSUM_LENGTH:], checksum(text[:-CHECKSUM_LENGTH])):
        return None
    return ParsedKey(text)


def without_keys(text: str) -> str:
    """With every key in it cut off after its public id: for what may quote a client that put its
    key into the wrong place."""
    return _ANYWHERE.sub(r"\g<1>…", text)


def checksum(body: str) -> str:
    """The CRC-32 of `body` as 6 base-62 characters, most significant first."""
    number = zlib.crc32(body.encode("ascii"))
    digits = []
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def digest(key: str) -> str:
    """What is kept of a key: its SHA-256, 64 hex digits. The secret is random and 190 bits long, so
    a slow password hash would add nothing but latency to each request."""
    return hashlib.sha256(key.encode()).hexdigest()


def is_equal(one: str, other: str) -> bool:
    """Compares in a time that does not tell how much of the two is equal."""
    return hmac.compare_digest(one.encode(), other.encode())
