"""Rows by their primary key, with SQL that is composed once for each table.

Django composes the SQL of a query anew each time: 0.1 to 0.4 ms of processor time, where the
database takes a hundredth of that. What every request writes is so little and so plain that it goes
this way; whatever is asked rarely, or needs more than a key, goes through querysets as usual.
Models' defaults and field types hold here too; their signals, which nobody hears, are not sent.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

from django.db import DEFAULT_DB_ALIAS, connection, connections, models

Field: TypeAlias = "models.Field[Any, Any]"


def insert(row: models.Model) -> int:
    """Stores a new row, and returns the primary key that it got."""
    sql = _insert(type(row), row.pk is not None)
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":  # which has RETURNING only since 3.35
            cursor.execute(sql, _values(row))
            return cursor.lastrowid
        cursor.execute(f"{sql} RETURNING {_quoted(_key(type(row)))}", _values(row))
        return cursor.fetchone()[0]


def insert_if_new(row: models.Model) -> bool:
    """Stores a new row, unless one is there that a constraint lets it not stand beside: False."""
    sql = f"{_insert(type(row), row.pk is not None)} ON CONFLICT DO NOTHING"
    with connection.cursor() as cursor:
        cursor.execute(sql, _values(row))
        return cursor.rowcount == 1


def insert_all(rows: Sequence[models.Model]) -> None:
    """Stores new rows of one table; either all of them have primary keys or none has."""
    if not rows:
        return
    sql = _insert(type(rows[0]), rows[0].pk is not None)
    with connection.cursor() as cursor:
        cursor.executemany(sql, [_values(row) for row in rows])


def read_locked(model: type[models.Model], pk: int, *names: str) -> tuple[Any, ...] | None:
    """These columns of a row, as the database has them, which nobody else changes before the
    transaction ends. None: there is no such row."""
    with connection.cursor() as cursor:
        # Without NO KEY, rows that point to this one could not be inserted meanwhile.
        lock = " FOR NO KEY UPDATE" if connection.features.has_select_for_update else ""
        cursor.execute(_select(model, names) + lock, [pk])
        return cursor.fetchone()


def read(model: type[models.Model], pk: int, *names: str) -> tuple[Any, ...] | None:
    """These columns of a row, as the database has them. None: there is no such row."""
    with connection.cursor() as cursor:
        cursor.execute(_select(model, names), [pk])
        return cursor.fetchone()


def update(model: type[models.Model], pk: int, **values: Any) -> None:
    """Gives fields of one row new values."""
    own = connections[DEFAULT_DB_ALIAS]
    stored = [_field(model, name).get_db_prep_save(value, own) for name, value in values.items()]
    with connection.cursor() as cursor:
        cursor.execute(_update(model, tuple(values)), [*stored, pk])


def update_each(model: type[models.Model], name: str, values: Mapping[int, Any]) -> None:
    """{primary key: value of one field}, each row with its own."""
    update_all(model, (name,), [(pk, (value,)) for pk, value in values.items()])


def update_all(
    model: type[models.Model], names: Sequence[str], values: Sequence[tuple[int, tuple[Any, ...]]]
) -> None:
    """[(primary key, a value for each of `names`)]: row by row, in this order.

    `bulk_update` makes one statement of it that grows with the square of the rows: 10 to 25 ms of
    processor time for 32 of them, where this takes 1.
    """
    fields = [_field(model, name) for name in names]
    rows = [
        [*(f.get_db_prep_save(v, connection) for f, v in zip(fields, new, strict=True)), pk]
        for pk, new in values
    ]
    with connection.cursor() as cursor:
        cursor.executemany(_update(model, tuple(names)), rows)


# ---- statements ----------------------------------------------------------------------------------


@cache
def _insert(model: type[models.Model], has_key: bool) -> str:
    fields = _fields(model, has_key)
    columns = ", ".join(_quoted(field) for field in fields)
    places = ", ".join(["%s"] * len(fields))
    return f"INSERT INTO {_table(model)} ({columns}) VALUES ({places})"  # noqa: S608


@cache
def _select(model: type[models.Model], names: tuple[str, ...]) -> str:
    columns = ", ".join(_quoted(_field(model, name)) for name in names)
    return f"SELECT {columns} FROM {_table(model)} WHERE {_quoted(_key(model))} = %s"  # noqa: S608


@cache
def _update(model: type[models.Model], names: tuple[str, ...]) -> str:
    changes = ", ".join(f"{_quoted(_field(model, name))} = %s" for name in names)
    return f"UPDATE {_table(model)} SET {changes} WHERE {_quoted(_key(model))} = %s"  # noqa: S608


@cache
def _fields(model: type[models.Model], has_key: bool) -> tuple[Field, ...]:
    """All columns; without the primary key where the database is to give it."""
    return tuple(field for field in model._meta.concrete_fields if has_key or not field.primary_key)


@cache
def _field(model: type[models.Model], name: str) -> Field:
    field = model._meta.get_field(name)
    assert isinstance(field, models.Field)
    return field


def _key(model: type[models.Model]) -> Field:
    assert model._meta.pk is not None
    return model._meta.pk


def _table(model: type[models.Model]) -> str:
    return connection.ops.quote_name(model._meta.db_table)


def _quoted(field: Field) -> str:
    assert field.column is not None
    return connection.ops.quote_name(field.column)


def _values(row: models.Model) -> list[Any]:
    own = connections[DEFAULT_DB_ALIAS]  # `connection` would look for it once a field
    fields = _fields(type(row), row.pk is not None)
    return [field.get_db_prep_save(getattr(row, field.attname), own) for field in fields]
