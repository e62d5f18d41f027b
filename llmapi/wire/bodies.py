"""The bodies of requests, while they come in and until the application has understood them."""

from collections import deque

from llmapi.errors import BodyTooLarge, Overloaded

PIECE = 64 * 1024
"""Bytes that are kept together. One array for each body would be moved as it grows, and leave holes
in the memory that are as large as what is in use."""


class Bodies:
    """All that this process holds. None may be longer than `most_bytes`, nor longer than the room
    that is left of `most_together`: when it becomes short, long ones are refused first, and short
    ones still pass. Owned by the event loop."""

    def __init__(self, most_bytes: int, most_together: int) -> None:
        self.most_bytes = most_bytes
        self.most_together = most_together
        self.held = 0

    def check(self, size: int, held: int = 0) -> None:
        """Whether a body may have `size` bytes, of which `held` are here. Raises BodyTooLarge,
        Overloaded."""
        if size > self.most_bytes:
            raise BodyTooLarge(f"The request body may have {self.most_bytes} bytes at most.")
        if size > self.most_together - (self.held - held):
            raise Overloaded("The server is receiving too many long requests.")


class Body:
    """One of them, as the file that Twisted writes and daphne reads. Twisted's own would stand on
    the disk, and be there until the answer ends."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._pieces: deque[bytes] = deque()
        self._last = bytearray()
        self._held = 0
        self.size = 0
        """Bytes that have come."""
        self.closed = False

    def write(self, data: bytes) -> None:
        """Raises BodyTooLarge, Overloaded."""
        self._bodies.check(self.size + len(data), self._held)
        self._last += data
        if len(self._last) >= PIECE:
            self._pieces.append(bytes(self._last))
            self._last.clear()
        self.size += len(data)
        self._held += len(data)
        self._bodies.held += len(data)

    def read(self, size: int) -> bytes:
        """The next bytes, `size` or a few more; fewer at the end. What was read is here no more."""
        if not self._pieces:
            rest, self._last = bytes(self._last), bytearray()
            return rest
        piece = self._pieces.popleft()
        return piece if len(piece) >= size else piece + self.read(size - len(piece))

    def tell(self) -> int:
        return self.size

    def seek(self, offset: int, whence: int = 0) -> None:
        """Twisted and daphne go back to the beginning before they read."""

    def release(self) -> None:
        """It counts no longer: the application has understood what it read of it."""
        self._bodies.held -= self._held
        self._held = 0

    def close(self) -> None:
        self.release()
        self._pieces.clear()
        self._last.clear()
        self.closed = True
