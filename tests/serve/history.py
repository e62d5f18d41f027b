"""What a server has stored, read by plain SQL, which owes nothing to the server's code."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg


@dataclass(frozen=True, slots=True)
class StoredMessage:
    pk: int
    conversation_id: int
    parent_id: int | None
    role: str
    content: Any
    completion_id: int | None
    choice_index: int | None


@dataclass(frozen=True, slots=True)
class StoredCompletion:
    """One request's row. `texts`: of its choices, from the tree or from its own content row."""

    pk: int
    public_id: str
    request_id: str
    kind: str
    status: str
    process_id: int | None
    head_id: int | None
    username: str
    completion_tokens: int
    error: str
    prompt: Any
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """Everything at one moment."""

    completions: tuple[StoredCompletion, ...]
    messages: tuple[StoredMessage, ...]


class History:
    """The database of a server: its DATABASE_URL, or none for SQLite in its var directory."""

    def __init__(self, var_dir: Path, database_url: str | None) -> None:
        self.sqlite_path = var_dir / "db.sqlite3"
        self.database_url = database_url

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """`sql` marks its values with %s on both databases."""
        if self.database_url is None:
            with closing(sqlite3.connect(self.sqlite_path, timeout=20)) as connection:
                return connection.execute(sql.replace("%s", "?"), values).fetchall()
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            return connection.execute(sql, values).fetchall()

    def completion(self, public_id: str) -> StoredCompletion:
        """The only row of that id."""
        (row,) = (row for row in self.read().completions if row.public_id == public_id)
        return row

    def read(self) -> Stored:
        """Completions first: a text that moves into the tree meanwhile is then read there."""
        completions = self.rows(
            "SELECT c.id, c.public_id, c.request_id, c.kind, c.status, c.process_id, c.head_id,"
            " u.username, c.completion_tokens, c.error, CAST(t.prompt AS text),"
            " CAST(t.output AS text)"
            " FROM conversations_completion c"
            " JOIN conversations_completioncontent t ON t.completion_id = c.id"
            " JOIN accounts_user u ON u.id = c.user_id ORDER BY c.id"
        )
        messages = tuple(
            StoredMessage(pk, conversation, parent, role, json.loads(content), completion, choice)
            for pk, conversation, parent, role, content, completion, choice in self.rows(
                "SELECT id, conversation_id, parent_id, role, CAST(content AS text), completion_id,"
                " choice_index FROM conversations_message ORDER BY id"
            )
        )
        answers: dict[int, list[StoredMessage]] = {}
        for message in messages:
            if message.completion_id is not None:
                answers.setdefault(message.completion_id, []).append(message)
        found = []
        for pk, *values, prompt, output in completions:
            said = sorted(answers.get(pk, []), key=lambda m: m.choice_index or 0)
            texts = [m.content for m in said] or [c["text"] for c in json.loads(output)]
            found.append(StoredCompletion(pk, *values, json.loads(prompt or "null"), tuple(texts)))
        return Stored(tuple(found), messages)

    def running_of(self, process_pks: set[int]) -> list[str]:
        """Ids that these processes have left as `running`."""
        rows = self.rows(
            "SELECT public_id, process_id FROM conversations_completion WHERE status = 'running'"
        )
        return [public_id for public_id, process in rows if process in process_pks]

    def flushed_of(self, process_pks: set[int]) -> dict[str, str]:
        """Id -> text so far, of what these processes have left as `running`."""
        rows = self.rows(
            "SELECT c.public_id, c.process_id, CAST(t.output AS text) FROM conversations_completion"
            " c JOIN conversations_completioncontent t ON t.completion_id = c.id"
            " WHERE c.status = 'running'"
        )
        return {
            public_id: "".join(choice["text"] for choice in json.loads(output))
            for public_id, process, output in rows
            if process in process_pks
        }

    def process_of(self, pid: int) -> int:
        """The newest ServerProcess row of a process number."""
        rows = self.rows(
            "SELECT id FROM conversations_serverprocess WHERE pid = %s ORDER BY id DESC", pid
        )
        return rows[0][0]


class Databases:
    """Makes an empty database for each server that asks, and drops them all in the end."""

    def __init__(self, server_url: str | None, name: str) -> None:
        self.server_url = server_url
        self.name = name
        self.made: list[str] = []

    def new(self) -> str | None:
        """A DATABASE_URL; None for SQLite in the server's own var directory."""
        if self.server_url is None:
            return None
        name = f"{self.name}_{len(self.made)}"
        self.made.append(name)
        self._on_server(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        self._on_server(f'CREATE DATABASE "{name}"')
        return urlsplit(self.server_url)._replace(path=f"/{name}").geturl()

    def drop_all(self) -> None:
        for name in self.made:
            self._on_server(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _on_server(self, sql: str) -> None:
        maintenance = urlsplit(self.server_url)._replace(path="/postgres").geturl()
        with psycopg.connect(maintenance, autocommit=True) as connection:
            connection.execute(sql)
