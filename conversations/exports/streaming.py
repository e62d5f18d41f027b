"""Long answers of Django's views, made piece by piece."""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakSet

from django.db import connections
from django.http import StreamingHttpResponse

PIECE_BYTES = 64 * 1024
"""As much as Django gives to the server at once; see also `DoorServer.handle_reply`."""

OF_ONE_USER = 2
"""Exports at once."""

threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="export")
"""Of all exports together; each has one, and a connection, only while a piece is made."""


class TooManyExports(Exception):
    """As many exports of this user are under way as may be at once. Nothing was begun."""


def export_begin(
    user_pk: int | None, lines: Iterable[str], *, content_type: str, filename: str
) -> StreamingHttpResponse:
    """An answer to be kept as a file, of which no more than a piece or two are in memory. It is one
    of this user's exports under way until it was sent or broken off.

    `lines` may query the database while they are made, and must keep no query open from one line
    to the next. An error in the middle is raised, and the server breaks off the connection: what
    came is never taken for the whole. Raises TooManyExports before anything is made.
    """
    pieces = OnThreads(in_pieces(lines), user_pk)
    with under_way_lock:
        own = [one for one in under_way if one.user_pk == user_pk and not one.is_over]
        if len(own) >= OF_ONE_USER:
            raise TooManyExports
        under_way.add(pieces)
    response = StreamingHttpResponse(pieces, content_type=f"{content_type}; charset=utf-8")
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


class OnThreads:
    """The same pieces, each made on one of the threads when the one before has been sent.

    Django would gather a plain iterator whole, in memory, before serving it asynchronously. It
    calls `close` when the answer is over, also when the client left; what made the pieces then
    ends, without being waited for.
    """

    def __init__(self, pieces: Iterator[bytes], user_pk: int | None = None) -> None:
        self._pieces = pieces
        self._lock = threading.Lock()
        """Held by the thread that makes a piece: the client may leave meanwhile."""

        self.user_pk = user_pk
        self.is_over = False

    def __aiter__(self) -> "OnThreads":
        return self

    async def __anext__(self) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            piece = await loop.run_in_executor(threads, self._next)
        except Exception:
            self.close()
            raise
        if piece is None:
            self.close()
            raise StopAsyncIteration
        return piece

    def close(self) -> None:
        if not self.is_over:
            self.is_over = True
            threads.submit(self._end)

    def _next(self) -> bytes | None:
        with self._lock:
            try:
                return next(self._pieces, None)
            finally:
                connections.close_all()

    def _end(self) -> None:
        with self._lock:
            try:
                if hasattr(self._pieces, "close"):
                    self._pieces.close()
            finally:
                connections.close_all()


under_way: "WeakSet[OnThreads]" = WeakSet()
"""Of this process. One that is lost before it was sent counts no more either."""

under_way_lock = threading.Lock()
