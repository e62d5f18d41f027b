"""What the load client itself costs: processor time for each event that it reads.

    python -m benchmarks.client_cost

A trivial server in another process streams events to 32 clients at the pace of a fast model. On a
small machine the client competes with the server that it measures; here is by how much.
"""

import argparse
import asyncio
import json
import multiprocessing
import time
from multiprocessing.connection import Connection

from benchmarks.load_client import Load, measure

EVENT = json.dumps(
    {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "none",
        "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}],
    }
)
LAST = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(event: str) -> bytes:
    data = f"data: {event}\n\n".encode()
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def serve(conn: Connection, tokens: int, pause_s: float) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(HEAD.encode())
        for _ in range(tokens):
            await asyncio.sleep(pause_s)
            writer.write(chunk(EVENT))
        writer.write(chunk(LAST) + b"0\r\n\r\n")
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        conn.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def main() -> None:
    parser = argparse.ArgumentParser(description="What the load client costs.")
    parser.add_argument("-c", "--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pause-ms", type=float, default=50)
    parser.add_argument("--requests", type=int, default=128)
    given = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    arguments = (theirs, given.tokens, given.pause_ms / 1000)
    server = multiprocessing.Process(target=serve, args=arguments, daemon=True)
    server.start()
    load = Load(f"http://127.0.0.1:{ours.recv()}", "none", max_tokens=given.tokens)
    numbers = iter(range(1_000_000))
    began = time.process_time()
    row = measure(load, given.clients, given.requests, numbers)
    whole_s = time.process_time() - began
    server.terminate()
    events = given.requests * given.tokens
    print(
        f"{events:,} events at {row.tokens_per_s:,.0f} a second: the client took "
        f"{row.client_cpu:.1%} of one core, {row.client_cpu * row.seconds / events * 1e6:.0f} us "
        f"an event; reading them afterwards another "
        f"{(whole_s - row.client_cpu * row.seconds) / events * 1e6:.0f} us."
    )


if __name__ == "__main__":
    main()
