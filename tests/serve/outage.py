"""A database that goes away under a running server, and comes back."""

import contextlib
import socket
import sqlite3
import threading
from pathlib import Path
from urllib.parse import urlsplit


class Proxy:
    """Between a server and PostgreSQL. Shut, it cuts what is open and refuses what comes; silent,
    it takes everything and passes nothing on."""

    def __init__(self, database_url: str) -> None:
        target = urlsplit(database_url)
        self.target = (target.hostname or "127.0.0.1", target.port or 5432)
        self.listener: socket.socket | None = None
        self.sockets: set[socket.socket] = set()
        self.passing = threading.Event()
        self.passing.set()
        self.address = ("127.0.0.1", 0)
        self.open()
        user = f"{target.username}{f':{target.password}' if target.password else ''}"
        self.url = target._replace(netloc=f"{user}@127.0.0.1:{self.address[1]}").geturl()

    def open(self) -> None:
        listener = socket.create_server(self.address)
        self.listener, self.address = listener, listener.getsockname()
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()

    def shut(self) -> None:
        listener, self.listener = self.listener, None
        if listener is not None:
            # To close it alone would not wake the thread that accepts.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for one in [*self.sockets]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.target)
            self.sockets |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self.pump, args=(source, sink), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.passing.wait()
                sink.sendall(data)
        self.sockets -= {source, sink}
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


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

    def begin(self) -> None:
        if self.proxy is not None:
            self.proxy.shut()
            return
        self.lock = sqlite3.connect(self.path, timeout=20, isolation_level=None)
        self.lock.execute("BEGIN EXCLUSIVE")

    def end(self) -> None:
        if self.proxy is not None:
            if self.proxy.listener is None:
                self.proxy.open()
        elif self.lock is not None:
            self.lock.close()
            self.lock = None
