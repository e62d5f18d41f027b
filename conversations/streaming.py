"""Long answers of Django's views, made piece by piece."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from django.db import connections
from django.http import StreamingHttpResponse

PIECE_BYTES = 64 * 1024
"""As much as Django gives to the server at once; see also `DoorServer.handle_reply`."""


def streamed(lines: Iterable[str], *, content_type: str, filename: str) -> StreamingHttpResponse:
    """An answer to be kept as a file, of which no more than a piece or two are in memory.

    `lines` may query the database while they are made. An error in the middle is raised, and the
    server breaks off the connection: what came is never taken for the whole.
    """
    response = StreamingHttpResponse(
        on_a_thread(in_pieces(lines)), content_type=f"{content_type}; charset=utf-8"
    )
    response["Content-Disposition"] = f'attachment; filename="{filename}"'
    response["Cache-Control"] = "no-store"
    return response


def in_pieces(lines: Iterable[str]) -> Iterator[bytes]:
    """Lines together, at least PIECE_BYTES of them at once but for the last; the first alone, for
    it says that something comes."""
    piece, size = [], PIECE_BYTES
    for line in lines:
        piece.append(line.encode(errors="replace"))
        size += len(piece[-1])
        if size >= PIECE_BYTES:
            yield b"".join(piece)
            piece, size = [], 0
    yield b"".join(piece)


async def on_a_thread(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The same pieces, made on a thread of their own, each when the one before has been sent.

    Django would gather a plain iterator whole, in memory, before serving it asynchronously.
    """
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="export")
    loop = asyncio.get_running_loop()
    try:
        while (piece := await loop.run_in_executor(thread, next, pieces, None)) is not None:
            yield piece
    finally:
        # Also when the client left: the thread ends its query, then itself, without being waited
        # for.
        thread.submit(_end, pieces)
        thread.shutdown(wait=False)


def _end(pieces: Iterator[bytes]) -> None:
    try:
        if hasattr(pieces, "close"):
            pieces.close()
    finally:
        connections.close_all()
