"""A file that a process holds locked while it lives. The kernel lets go after a kill -9 too."""

import fcntl
import os
import socket
from pathlib import Path
from typing import Self

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_host() -> str:
    """Host name and boot id: where lock files tell the truth, and only until the next boot.

    At most 255 characters. Without a boot id (macOS) the host name stands alone.
    """
    try:
        boot_id = BOOT_ID.read_text().strip()
    except OSError:
        boot_id = ""
    return f"{socket.gethostname()[:200]}/{boot_id}"


class LockFile:
    """Locks `path` (made, with its folder, if missing) until `release`, or until this process ends.

    Raises BlockingIOError if another process holds it. The descriptor is not inherited by programs
    that this process starts; a child that is forked and goes on in Python would keep the lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_the_file_at_path():
                raise BlockingIOError(f"{path} was released and taken again meanwhile")
        except OSError:
            os.close(self.descriptor)
            raise

    def _is_the_file_at_path(self) -> bool:
        """False if its last owner removed the file between our open and our lock."""
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False
        return there.st_ino == os.fstat(self.descriptor).st_ino

    def release(self) -> None:
        """Removes the file and lets go of it."""
        self.path.unlink(missing_ok=True)
        self.let_go()

    def let_go(self) -> None:
        """Leaves the file there, for whoever takes it next."""
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_held(path: str) -> bool | None:
    """Whether a living process holds the lock; None if the file cannot be asked (say, absent)."""
    if not path:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # Shared: two who ask at the same time must not take each other for the owner.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(descriptor)
