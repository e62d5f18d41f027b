"""What the load client makes of the bytes that it recorded."""

import asyncio
import json
from typing import Any

import pytest

from benchmarks.stream import (
    BadAnswer,
    Endpoint,
    Piece,
    Recording,
    events,
    exchange,
    is_complete,
    read_answer,
    split_head,
    text_times,
    unchunked,
)

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSED = HEAD + b"\r\n"


def event(text: str | None = None, **other: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    reason = other.pop("finish_reason", None)
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return b"data: " + json.dumps({"choices": choices, **other}).encode() + b"\n\n"


USAGE = {"prompt_tokens": 7, "completion_tokens": 2}
STREAM = [event(""), event("two "), event("words"), event(finish_reason="length", usage=USAGE)]
DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):X};a=b\r\n".encode() + data + b"\r\n"


def at_times(*data: bytes) -> list[Piece]:
    """One second apart, from 11 on."""
    return [(11.0 + second, piece) for second, piece in enumerate(data)]


def recorded(*data: bytes) -> Recording:
    return Recording(10.0, at_times(*data))


def test_times_are_those_at_which_text_came_and_not_the_role() -> None:
    answer = read_answer(recorded(CHUNKED, *map(chunk, STREAM), chunk(DONE), b"0\r\n\r\n"))
    assert answer.text == "two words"
    assert answer.arrivals == (3.0, 4.0)
    assert answer.total_s == 7.0
    assert answer.usage == USAGE
    assert answer.finish_reason == "length"


def test_a_stream_may_end_with_its_connection_and_without_done() -> None:
    assert read_answer(recorded(CLOSED + STREAM[1], STREAM[2] + STREAM[3])).arrivals == (1.0, 2.0)


def test_a_stream_cut_anywhere_into_two_reads_the_same() -> None:
    whole = CHUNKED + b"".join(map(chunk, STREAM)) + chunk(DONE) + b"0\r\n\r\n"
    for place in range(1, len(whole)):
        parts = [whole[:place], whole[place:]]
        assert read_answer(recorded(*parts)).text == "two words"
        assert is_complete(at_times(*parts))
        # The blank line after the last chunk may be missing: nothing hangs on it.
        assert is_complete(at_times(parts[0])) == (place >= len(whole) - 2)


def test_bytes_that_look_like_the_last_chunk_are_not_the_end() -> None:
    looks = chunk(b"data: 10\r\n\r\n")[:-2]
    assert looks.endswith(b"0\r\n\r\n")
    assert not is_complete(at_times(CHUNKED + looks))
    assert unchunked(at_times(looks)) == ([(11.0, b"data: 10\r\n\r\n")], False)


def test_events_join_their_lines_and_skip_comments_and_other_fields() -> None:
    data = b": keep-alive\n\nevent: x\ndata: one\r\ndata:two\r\n\r\ndata: never ended"
    assert list(events(at_times(data))) == [(11.0, "one\ntwo")]


def test_the_head_may_come_in_pieces() -> None:
    head, rest = split_head(at_times(b"HTTP/1.1 200 OK\r", b"\n\r\n", b"body"))
    assert (head, rest) == (b"http/1.1 200 ok", [(13.0, b"body")])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\nno such field", "400: no such field"),
        (CLOSED + STREAM[1], "without a finish reason"),
        (CLOSED + b'data: {"error": {"message": "too full"}}\n\n', "too full"),
        (b"", "no answer"),
    ],
)
def test_what_is_no_whole_answer_is_an_error_with_the_servers_words(
    data: bytes, words: str
) -> None:
    with pytest.raises(BadAnswer, match=words):
        read_answer(recorded(data))


def test_a_stream_that_still_goes_on_can_be_looked_into() -> None:
    half = chunk(STREAM[2])[:-20]
    assert text_times(recorded(CHUNKED, chunk(STREAM[1]), half)) == [12.0]
    assert text_times(recorded(CHUNKED[:20])) == []


@pytest.mark.parametrize("base", ["http://host:81", "http://host:81/", "http://host:81/v1"])
def test_a_url_may_come_with_its_v1_or_without(base: str) -> None:
    assert Endpoint.at(base) == Endpoint("host", 81, "/v1/chat/completions")


@pytest.mark.parametrize("closes", [True, False])
async def test_an_exchange_ends_with_the_stream_whether_or_not_the_server_closes(
    closes: bool,
) -> None:
    asked = []
    closed = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"}"))
        writer.write(CLOSED if closes else CHUNKED)
        for data in STREAM:
            writer.write(data if closes else chunk(data))
            await writer.drain()
        if not closes:
            writer.write(b"0\r\n\r\n")
            await reader.read()  # until the client closes
        writer.close()
        await writer.wait_closed()
        closed.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        endpoint = Endpoint.at(f"http://127.0.0.1:{port}", "sk-1")
        recording = await exchange(endpoint, {"stream": True}, timeout_s=10)
        await closed.wait()
    assert read_answer(recording).text == "two words"
    assert asked[0].endswith(b'\r\n\r\n{"stream": true}')
    assert b"Authorization: Bearer sk-1\r\n" in asked[0]


async def test_a_server_that_is_not_there_is_a_bad_answer() -> None:
    with pytest.raises(BadAnswer, match="connection failed"):
        await exchange(Endpoint("127.0.0.1", 1, "/"), {})
