"""Time to the first token of a chat's tenth turn, against the same prompt cold.

    python -m benchmarks.turns                       (our server, started for this)
    python -m benchmarks.turns --url URL --model NAME --key KEY --other-key KEY

A chat grows turn by turn to about 2,000 tokens of history, with the answers that the server gave.
Its last turn is asked once more with another first message (nothing before it can be in a cache),
and, with another user's key, exactly as it was: what one user has said must not be quicker for
another. Several chats; medians.
"""

import argparse
import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.figures import markdown, median
from benchmarks.load_client import Load
from benchmarks.model import model_directory
from benchmarks.prompts import Message, story
from benchmarks.servers import chosen_server, settings_from, started
from benchmarks.stream import Answer, Endpoint, exchange, read_answer

TURNS = 10
SENTENCES = 17
"""Of each user message: with an answer of 64 tokens and the template, 200 tokens a turn and more,
so that the tenth turn has about 2,000 before it."""


async def ask(load: Load, messages: list[Message]) -> Answer:
    return read_answer(await exchange(Endpoint.at(load.url, load.key), load.body(messages)))


def user_message(chat: int, turn: int) -> Message:
    told = story(chat * 100 + turn, SENTENCES)
    return {"role": "user", "content": f"Turn {turn}. {told} What happens next?"}


def opening(number: int) -> Message:
    return {"role": "system", "content": f"Chat {number:06d}. You tell long stories."}


async def one_chat(load: Load, number: int, other: Load | None) -> dict[str, float]:
    """Seconds to the first token: `first`, `warm`, `cold`, `other user`; and tokens."""
    messages = [opening(number)]
    first_s, answer = 0.0, None
    for turn in range(1, TURNS + 1):
        messages.append(user_message(number, turn))
        answer = await ask(load, messages)
        first_s = first_s or answer.arrivals[0]
        if turn < TURNS:
            messages.append({"role": "assistant", "content": answer.text})
    assert answer is not None
    cold = await ask(load, [opening(number + 500_000), *messages[1:]])
    result = {
        "first": first_s,
        "warm": answer.arrivals[0],
        "cold": cold.arrivals[0],
        "tokens": usage(answer, "prompt_tokens"),
        "cached": usage(answer, "cached_tokens"),
        "cold cached": usage(cold, "cached_tokens"),
    }
    if other is not None:
        stranger = await ask(other, messages)
        result["other user"] = stranger.arrivals[0]
        result["other cached"] = usage(stranger, "cached_tokens")
    return result


def usage(answer: Answer, name: str) -> float:
    found: dict[str, Any] = answer.usage or {}
    details = found.get("prompt_tokens_details") or {}
    return float(found.get(name, details.get(name)) or 0)


def table(chats: list[dict[str, float]]) -> str:
    cold = median(chat["cold"] for chat in chats)
    lines = [("first turn", "first", ""), (f"turn {TURNS}", "warm", "cached")]
    lines += [(f"turn {TURNS}, another first message", "cold", "cold cached")]
    if "other user" in chats[0]:
        lines += [(f"turn {TURNS}, another user", "other user", "other cached")]
    rows = []
    for name, column, cached in lines:
        seconds = median(chat[column] for chat in chats)
        tokens = int(median(chat[cached] for chat in chats)) if cached else 0
        rows.append([name, seconds * 1000, seconds / cold, tokens])
    tokens = int(median(chat["tokens"] for chat in chats))
    head = ["asked", "first token ms", "of cold", "cached tokens"]
    return f"{len(chats)} chats, {tokens:,} prompt tokens in the last turn:\n\n" + markdown(
        head, rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="The tenth turn of a chat.")
    parser.add_argument("--chats", type=int, default=3)
    parser.add_argument("--url", help="of a running server; else one is started")
    parser.add_argument("--model-name", default="SmolLM2-135M-Instruct")
    parser.add_argument("--key")
    parser.add_argument("--other-key", help="of another user")
    parser.add_argument("--drop", nargs="*", default=[], metavar="FIELD")
    parser.add_argument("--server", default="ours, fp32", help="of servers.toml, to start")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--model", type=Path, metavar="DIR")
    given = parser.parse_args()
    print(table(asyncio.run(run(given))))


async def run(given: argparse.Namespace) -> list[dict[str, float]]:
    with ExitStack() as stack:
        if given.url:
            load = Load(given.url, given.model_name, given.key, drop=given.drop)
            other = given.other_key
        else:
            settings = settings_from(given.set, model_directory(given.model))
            server = chosen_server(given.server)
            running = stack.enter_context(started(server, settings))
            load, other = running.load(), running.new_key()
        stranger = Load(load.url, load.model, other, extra=load.extra, drop=load.drop)
        await ask(load, [opening(999_999), user_message(999_999, 0)])  # warm up
        return [
            await one_chat(load, number, stranger if other else None)
            for number in range(1, given.chats + 1)
        ]


if __name__ == "__main__":
    main()
