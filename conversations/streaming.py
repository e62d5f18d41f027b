"""Long answers of Django's views, made piece by piece."""

import asyncio
from collections.abc import Iterable, Iterator
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
        OnAThread(in_pieces(lines)), content_type=f"{content_type}; charset=utf-8"
    )
    response["Content-Disposition"] = f'attachment; filename="{filename}"'
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


class OnAThread:
    """The same pieces, made on a thread of their own, each when the one before has been sent.

    Django would gather a plain iterator whole, in memory, before serving it asynchronously. It
    calls `close` when the answer is over, also when the client left; the thread then ends its
    query, and itself, without being waited for.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="export")
        self._is_closed = False

    def __aiter__(self) -> "OnAThread":
        return self

    async def __anext__(self) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            piece = await loop.run_in_executor(self._thread, next, self._pieces, None)
        except Exception:
            self.close()
            raise
        if piece is None:
            self.close()
            raise StopAsyncIteration
        return piece

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._thread.submit(_end, self._pieces)
            self._thread.shutdown(wait=False)


def _end(pieces: Iterator[bytes]) -> None:
    try:
        if hasattr(pieces, "close"):
            pieces.close()
    finally:
        connections.close_all()
