"""Many rows of one table at once: COPY on PostgreSQL, one prepared statement on SQLite."""

from collections.abc import Sequence
from typing import Any

from django.db import connection, models

# How COPY's text format writes what would end a field or a line.
ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


class Loader:
    """Rows of a table, as tuples of the fields that are named; other fields get their defaults.

    Values are as the database has them: JSON as its text, times as text in UTC. Nothing is checked
    but what the database checks; signals are not sent.
    """

    def __init__(self, model: type[models.Model], *names: str) -> None:
        self._table = connection.ops.quote_name(model._meta.db_table)
        self._key = model._meta.pk
        given = [model._meta.get_field(name) for name in names]
        others = [field for field in model._meta.concrete_fields if field not in given]
        others = [field for field in others if not field.primary_key]
        # The default of now, or of an id, would be the same for all rows.
        self._constants = tuple(
            field.get_db_prep_save(field.get_default(), connection) for field in others
        )
        self._columns = ", ".join(
            connection.ops.quote_name(str(field.column))  # type: ignore[union-attr]
            for field in (*given, *others)
        )
        self._places = ", ".join(["%s"] * (len(given) + len(others)))

    def load(self, rows: Sequence[tuple[Any, ...]]) -> None:
        with connection.cursor() as cursor:
            if connection.vendor != "postgresql":
                sql = f"INSERT INTO {self._table} ({self._columns}) VALUES ({self._places})"  # noqa: S608
                cursor.executemany(sql, [(*row, *self._constants) for row in rows])
                return
            ending = "".join(f"\t{_copied(_plain(value))}" for value in self._constants) + "\n"
            with cursor.copy(f"COPY {self._table} ({self._columns}) FROM STDIN") as copy:
                copy.write("".join("\t".join(map(_copied, row)) + ending for row in rows))

    def move_sequence(self) -> None:
        """After rows that brought their primary keys: the next one is given a larger one."""
        if connection.vendor != "postgresql" or not isinstance(self._key, models.AutoField):
            return
        column = str(self._key.column)
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT setval(pg_get_serial_sequence(%s, %s), max({column})) FROM {self._table}",  # noqa: S608
                [self._table, column],
            )


def _plain(value: Any) -> Any:
    """What psycopg wraps in a class of its own (JSON), as its text."""
    dumps, inner = getattr(value, "dumps", None), getattr(value, "obj", None)
    return dumps(inner) if dumps else value


def _copied(value: Any) -> str:
    if value is None:
        return "\\N"
    if value is True or value is False:
        return "t" if value else "f"
    return value.translate(ESCAPES) if isinstance(value, str) else str(value)
