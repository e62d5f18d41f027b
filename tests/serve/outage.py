"""A database that goes away under a running server, and comes back."""

import sqlite3
from pathlib import Path

from tests.serve.proxy import Proxy


class Outage:
    """`begin` and `end`: by a proxy that is shut, or by a lock on SQLite's file that another
    process holds for as long as it pleases."""

    def __init__(self, database_url: str | None, var_dir: Path) -> None:
        self.proxy = Proxy(database_url) if database_url else None
        self.path = var_dir / "db.sqlite3"
        self.lock: sqlite3.Connection | None = None

    @property
    def url(self) -> str | None:
        """What the server takes for its database."""
        return self.proxy.url if self.proxy else None

    def begin(self, *, silent: bool = False) -> None:
        if self.proxy is not None:
            if silent:
                self.proxy.fall_silent()
            else:
                self.proxy.shut()
            return
        self.lock = sqlite3.connect(self.path, timeout=20, isolation_level=None)
        self.lock.execute("BEGIN EXCLUSIVE")

    def end(self) -> None:
        if self.proxy is not None:
            self.proxy.open()
        elif self.lock is not None:
            self.lock.close()
            self.lock = None

    def close(self) -> None:
        if self.proxy is not None:
            self.proxy.close()
        else:
            self.end()
