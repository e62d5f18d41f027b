"""A connection that is written to at a low price, and counts what its client has not read."""

import asyncio
import fcntl
import logging
import struct
import termios
from typing import Any, ClassVar

from twisted.internet import tcp

logger = logging.getLogger(__name__)


class PromptTransport(tcp.Server):
    """A connection that is written to when the event loop comes round, without asking before.

    Twisted has the kernel tell it first that it may write: for each token of each stream the
    connection is put on epoll's list, reported and taken off again, which costs more than the write
    itself. Nearly always it may. A connection whose client reads too slowly is left to the reactor,
    which is asked as soon as a write was not taken as a whole.
    """

    _due: "ClassVar[list[PromptTransport]]" = []
    """Those with something to send, which go in one turn of the event loop."""

    _is_due = False

    taken = 0
    """Bytes that the kernel has taken from us."""

    @property
    def unread(self) -> int:
        """Bytes that wait here, for the kernel takes no more: its client does not read."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen

    @property
    def arrived(self) -> int:
        """Bytes that are on the client's machine, as far as the kernel knows. It holds megabytes
        itself, and takes nothing from us for minutes while a slow client reads them."""
        try:
            queued = fcntl.ioctl(self.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
        except OSError:  # not on this system
            return self.taken
        return self.taken - int(struct.unpack("i", queued)[0])

    def writeSomeData(self, data: Any) -> Any:  # noqa: N802 (Twisted's name)
        taken = super().writeSomeData(data)
        if isinstance(taken, int):  # else what went wrong
            self.taken += taken
        return taken

    def startWriting(self) -> None:  # noqa: N802 (Twisted's name)
        if self.dataBuffer:  # of an earlier write: the reactor has this connection on its list
            super().startWriting()
        elif not self._is_due:
            self._is_due = True
            if not self._due:
                asyncio.get_running_loop().call_soon(self._write_due)
            self._due.append(self)

    @classmethod
    def _write_due(cls) -> None:
        due, cls._due = cls._due, []
        for transport in due:
            try:
                transport._write()
            except Exception:
                logger.exception("A connection could not be written to")

    def _write(self) -> None:
        """Send what was written since; whatever has to happen besides is the reactor's."""
        self._is_due = False
        if self.connected and (self.doWrite() is not None or self.dataBuffer):
            super().startWriting()
