"""Log probabilities of tokens in OpenAI's two shapes: of chats, and of completions."""

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

from llmapi.engine.messages import TokenLogprob

JSON = dict[str, Any]

LOWEST = -9999.0
"""What JSON has for minus infinity, as in OpenAI's API."""


def chat_logprobs(tokens: Sequence[TokenLogprob], specials: Mapping[int, str]) -> JSON:
    """`specials`: names of the tokens that have no text."""

    def item(one: TokenLogprob) -> JSON:
        return {
            "token": name(one, specials),
            "logprob": number(one),
            "bytes": list(one.piece) if one.token not in specials else None,
        }

    content = [{**item(one), "top_logprobs": [item(other) for other in one.top]} for one in tokens]
    return {"content": content, "refusal": None}


class TextLogprobs:
    """Of one choice of a completion, as its tokens come: it knows where in the text they begin."""

    def __init__(self, specials: Mapping[int, str]) -> None:
        """`specials`: names of the tokens that have no text."""
        self._specials = specials
        self._begin(0)

    def prompt(self, tokens: Sequence[TokenLogprob], text: str) -> JSON:
        """The tokens of the prompt that is echoed as `text`."""
        told = self.answer(tokens, text)
        self._begin(len(text))
        return told

    def answer(self, tokens: Sequence[TokenLogprob], text: str) -> JSON:
        """The next tokens; `text` is what came with them."""
        offsets = []
        for one in tokens:
            piece = one.piece
            if piece and self._offset == 0 and not text.startswith(" "):
                # The space that SentencePiece puts before a text's first word.
                piece = piece.removeprefix(b" ")
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(piece))
        return {
            "tokens": [self._name(one) for one in tokens],
            "token_logprobs": [number(one) for one in tokens],
            "top_logprobs": [self._top(one) for one in tokens],
            "text_offset": offsets,
        }

    def _begin(self, offset: int) -> None:
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def _name(self, one: TokenLogprob) -> str:
        return name(one, self._specials, incomplete="bytes:")

    def _top(self, one: TokenLogprob) -> JSON | None:
        """The most probable tokens, and the token itself if it is not among them."""
        if one.logprob is None:
            return None
        top: JSON = {}
        for other in (*one.top, one):
            # Of several tokens that read alike, the most probable.
            top.setdefault(self._name(other), number(other))
        return top


def name(one: TokenLogprob, specials: Mapping[int, str], incomplete: str = "") -> str:
    """The token as text; part of a character as `\\xe5\\x95`, as OpenAI writes it."""
    special = specials.get(one.token)
    if special is not None:
        return special
    try:
        return one.piece.decode()
    except UnicodeDecodeError:
        return incomplete + "".join(f"\\x{byte:02x}" for byte in one.piece)


def number(one: TokenLogprob) -> float | None:
    return one.logprob if one.logprob is None else max(one.logprob, LOWEST)
