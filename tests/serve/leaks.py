"""Secrets that were put into a server's hands, and a search for them in all that it left."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from django.core import signing
from psycopg import sql

SHORTEST = 8
SESSIONS = "django_session"


@dataclass(frozen=True)
class Secret:
    """`name` says what it is, without saying it. `is_kept`: it has a place in the database, and is
    shown there to those who may see it: what was said, and session ids. So it is searched in logs
    and figures alone."""

    name: str
    text: str
    is_kept: bool = False

    @cached_property
    def forms(self) -> set[bytes]:
        """As it is, and as it would stand in an address or in JSON."""
        texts = {self.text, quote(self.text, safe=""), json.dumps(self.text)[1:-1]}
        return {text.encode() for text in texts}


@dataclass(frozen=True, slots=True)
class Leak:
    """Where which secret was found; not the secret itself."""

    secret: str
    place: str


@dataclass
class Search:
    """The secrets, and what was found of them."""

    secrets: list[Secret] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)
    places: int = 0
    searched_bytes: int = 0

    def plant(self, name: str, text: str, *, is_kept: bool = False) -> str:
        """From now on this is searched; returns it."""
        assert len(text) >= SHORTEST, f"{name} is so short that it may be anywhere"
        self.secrets.append(Secret(name, text, is_kept))
        return text

    def plant_key(self, name: str, text: str) -> str:
        """A key, and its secret part alone."""
        self.plant(f"{name}, its secret part", text[11:43])
        return self.plant(name, text)

    def look(
        self, place: str, data: bytes | str, *, logs: bool = False, besides: tuple[str, ...] = ()
    ) -> None:
        """`logs`: nothing may stand there that is kept in the database either. `besides`: names of
        secrets that are shown there on purpose."""
        raw = data.encode() if isinstance(data, str) else data
        self.places += 1
        self.searched_bytes += len(raw)
        for secret in self.secrets:
            if secret.is_kept and not logs:
                continue
            if secret.name.removesuffix(", its secret part") in besides:
                continue
            if any(form in raw for form in secret.forms):
                self.leaks.append(Leak(secret.name, place))

    # ---- the database ---------------------------------------------------------------------------

    def look_in_sqlite(self, path: Path, secret_key: str) -> None:
        """Every column of every table, and the bytes of the files: deleted rows too."""
        with closing(sqlite3.connect(path, timeout=20)) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for (table,) in tables.fetchall():
                cursor = connection.execute(f'SELECT * FROM "{table}"')
                columns = [column[0] for column in cursor.description]
                self.look_in_rows(table, columns, cursor, secret_key)
        for file in path.parent.glob(f"{path.name}*"):
            self.look(f"the bytes of {file.name}", file.read_bytes())

    def look_in_postgres(self, url: str, secret_key: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            tables = connection.execute(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
            )
            for (table,) in tables.fetchall():
                cursor = connection.execute(
                    sql.SQL("SELECT * FROM {}").format(sql.Identifier(table))
                )
                columns = [column.name for column in cursor.description or ()]
                self.look_in_rows(table, columns, cursor, secret_key)

    def look_in_rows(self, table: str, columns: list[str], rows: Any, secret_key: str) -> None:
        for row in rows:
            for column, value in zip(columns, row, strict=True):
                if value is not None:
                    self.look(
                        f"{table}.{column}", value if isinstance(value, bytes) else str(value)
                    )
            if table == SESSIONS:
                inside = session_of(row[columns.index("session_data")], secret_key)
                self.look(f"{table}.session_data, decoded", inside)

    # ---- files ----------------------------------------------------------------------------------

    def look_in_files(self, folder: Path, *, but: tuple[str, ...]) -> None:
        """All files below, but those whose path begins so."""
        for path in files_below(folder):
            name = str(path.relative_to(folder))
            if not name.startswith(but):
                self.look(name, path.read_bytes())


def files_below(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def session_of(data: str, secret_key: str) -> str:
    """What a row of Django's sessions holds: compressed and signed, so not to be read as it is."""
    salt = "django.contrib.sessions.SessionStore"
    return json.dumps(
        signing.loads(data, key=secret_key, salt=salt, fallback_keys=[]), ensure_ascii=False
    )
