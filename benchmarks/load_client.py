"""A closed loop of streaming chat clients against any OpenAI-compatible URL.

    python -m benchmarks.load_client http://127.0.0.1:19327 SmolLM2-135M-Instruct --key sk-...

Each of C clients sends its next request when its last is answered, until N requests are done.
Requests are greedy with every sampling parameter sent, so that no server's defaults count, and ask
that no end token ends them, so that all answers are equally long; `--drop` takes out what a server
refuses. Prompts are 111 tokens with SmolLM2's template, each one different from its first words on.

Tokens are counted by the server's usage; where it sends none, its text is tokenised again
(`--tokenizer`), else its events are counted. The row says which. With `--tokenizer`, usage is
checked against the text.
"""

import argparse
import asyncio
import gc
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import markdown, percentiles_ms
from benchmarks.prompts import Message, chat
from benchmarks.stream import Answer, BadAnswer, Endpoint, Recording, exchange, read_answer

GREEDY: Mapping[str, Any] = {
    "temperature": 0,
    "top_p": 1,
    "top_k": 0,
    "min_p": 0,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "n": 1,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
}

TextLength = Callable[[str], int]


@dataclass(frozen=True)
class Load:
    """What is asked of a server, the number of clients apart."""

    url: str
    model: str
    key: str | None = None
    max_tokens: int = 64
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields besides (or instead of) the greedy ones."""

    drop: Sequence[str] = ()
    """Fields that this server refuses."""

    shared_sentences: int = 0

    def body(self, messages: list[Message], **other: Any) -> dict[str, Any]:
        lengths = {"max_tokens": self.max_tokens, "min_tokens": self.max_tokens}
        body = {"model": self.model, "messages": messages, **GREEDY, **lengths, **self.extra}
        body |= other
        return {name: value for name, value in body.items() if name not in self.drop}


@dataclass(frozen=True)
class Row:
    """One measurement: so many clients, so many requests."""

    clients: int
    requests: int
    seconds: float
    tokens: int
    tokens_per_s: float
    counted_by: str
    """`usage`, `text` (tokenised again) or `events`."""

    text_share: float | None
    """Tokens of the answers' text, tokenised again, for each token that was counted: near 1 if the
    server counts honestly. None: no tokenizer was given."""

    prompt_tokens: tuple[int, int] | None
    """Least and most, by the server's usage."""

    short_answers: int
    """Answers of fewer tokens than asked for."""

    tokens_per_event: float
    """Above 1: the server sends several tokens at once, and times between events are not times
    between tokens."""

    client_cpu: float
    """Of one core, used by this client."""

    first_p50_ms: float
    first_p95_ms: float
    first_p99_ms: float
    gap_p50_ms: float
    gap_p95_ms: float
    gap_p99_ms: float


async def run_clients(
    load: Load, clients: int, requests: int, numbers: Iterator[int]
) -> list[Recording]:
    endpoint = Endpoint.at(load.url, load.key)
    recordings: list[Recording] = []
    places = iter(range(requests))

    async def one_client() -> None:
        for _ in places:
            body = load.body(chat(next(numbers), shared=load.shared_sentences))
            recordings.append(await exchange(endpoint, body))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(clients, requests)):
            group.create_task(one_client())
    return recordings


def measure(
    load: Load,
    clients: int,
    requests: int,
    numbers: Iterator[int],
    text_length: TextLength | None = None,
) -> Row:
    """Raises BadAnswer if any request was not answered to its end."""
    gc.collect()
    began, cpu_began = time.perf_counter(), time.process_time()
    try:
        recordings = asyncio.run(run_clients(load, clients, requests, numbers))
    except ExceptionGroup as group:
        first, rest = group.split(BadAnswer)
        if rest or first is None:
            raise
        raise first.exceptions[0] from None
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    answers = [read_answer(recording) for recording in recordings]
    return row_of(answers, clients, load.max_tokens, seconds, cpu_s, text_length)


def row_of(
    answers: Sequence[Answer],
    clients: int,
    max_tokens: int,
    seconds: float,
    cpu_s: float,
    text_length: TextLength | None,
) -> Row:
    counted = [count_tokens(answer, text_length) for answer in answers]
    tokens = sum(count for count, _ in counted)
    texts = sum(text_length(answer.text) for answer in answers) if text_length else 0
    prompts = [a.usage["prompt_tokens"] for a in answers if a.usage and "prompt_tokens" in a.usage]
    gaps = [gap for answer in answers for gap in gaps_of(answer.arrivals)]
    first = [(answer.arrivals or (answer.total_s,))[0] for answer in answers]
    return Row(
        clients=clients,
        requests=len(answers),
        seconds=seconds,
        tokens=tokens,
        tokens_per_s=tokens / seconds,
        counted_by=" and ".join(sorted({how for _, how in counted})),
        text_share=texts / tokens if text_length and tokens else None,
        prompt_tokens=(min(prompts), max(prompts)) if prompts else None,
        short_answers=sum(count < max_tokens for count, _ in counted),
        tokens_per_event=tokens / max(sum(len(answer.arrivals) for answer in answers), 1),
        client_cpu=cpu_s / seconds,
        **percentiles_ms("first", first),
        **percentiles_ms("gap", gaps),
    )


def count_tokens(answer: Answer, text_length: TextLength | None) -> tuple[int, str]:
    """New tokens, and by what they were counted."""
    if answer.usage and answer.usage.get("completion_tokens") is not None:
        return int(answer.usage["completion_tokens"]), "usage"
    if text_length:
        return text_length(answer.text), "text"
    return len(answer.arrivals), "events"


def gaps_of(arrivals: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(arrivals)]


def tokenizer_length(directory: Path) -> TextLength:
    """Counts the tokens of a text with the `tokenizer.json` in a model's directory."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def table(rows: Sequence[Row]) -> str:
    head = ["clients", "requests", "tokens", "counted by", "tokens/s"]
    head += [f"{name} p{p} ms" for name in ("first", "gap") for p in (50, 95, 99)]
    return markdown([*head, "short", "client CPU %"], map(cells, rows))


def cells(row: Row) -> list[Any]:
    counted = [row.clients, row.requests, row.tokens, row.counted_by, row.tokens_per_s]
    first = [row.first_p50_ms, row.first_p95_ms, row.first_p99_ms]
    gaps = [row.gap_p50_ms, row.gap_p95_ms, row.gap_p99_ms]
    return [*counted, *first, *gaps, row.short_answers, row.client_cpu * 100]


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description="A load of streaming chat clients.")
    result.add_argument("url")
    result.add_argument("model")
    result.add_argument("-c", "--clients", type=int, nargs="+", default=[1, 8])
    result.add_argument("-n", "--requests", type=int, help="of each row; default: 3 a client")
    result.add_argument("--max-tokens", type=int, default=64)
    result.add_argument("--key")
    result.add_argument("--extra", type=json.loads, default={}, metavar="JSON")
    result.add_argument("--drop", nargs="*", default=[], metavar="FIELD")
    result.add_argument("--shared", type=int, default=0, metavar="SENTENCES")
    result.add_argument("--tokenizer", type=Path, metavar="DIR")
    result.add_argument(
        "--first-number",
        type=int,
        # Another one in each run: a server that has seen these prompts may have them in its cache.
        default=int(time.time()) % 900_000,
        help="of the prompts; default: by the clock",
    )
    result.add_argument("--json", type=Path, metavar="FILE")
    return result


def main() -> None:
    given = parser().parse_args()
    load = Load(
        given.url, given.model, given.key, given.max_tokens, given.extra, given.drop, given.shared
    )
    length = tokenizer_length(given.tokenizer) if given.tokenizer else None
    numbers = itertools.count(given.first_number)
    try:
        measure(load, 1, 2, numbers)  # warm up, unseen
        rows = [
            measure(load, clients, given.requests or max(3 * clients, 8), numbers, length)
            for clients in given.clients
        ]
    except BadAnswer as error:
        raise SystemExit(str(error)) from None
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
