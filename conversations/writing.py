"""Transactions that write."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from django.db import connection, models, transaction

_one_writer = threading.RLock()


@contextmanager
def write_transaction() -> Iterator[None]:
    """`transaction.atomic()`; with SQLite, one at a time in this process.

    SQLite has one writer. Who finds it taken sleeps and asks again, up to 100 ms at a time, and may
    be overtaken; whoever waits for a lock is woken at once.
    """
    alone = _one_writer if connection.vendor == "sqlite" else nullcontext()
    with alone, transaction.atomic():
        yield


def update_each(model: type[models.Model], field_name: str, values: Mapping[int, Any]) -> None:
    """{primary key: value of one field}, each row with its own.

    `bulk_update` makes one statement of it that grows with the square of the rows: 10 to 25 ms of
    processor time for 32 of them, where this takes 1.
    """
    field, key = model._meta.get_field(field_name), model._meta.pk
    assert isinstance(field, models.Field)
    assert key is not None
    sql = f"UPDATE {model._meta.db_table} SET {field.column} = %s WHERE {key.column} = %s"  # noqa: S608
    rows = [(field.get_db_prep_save(value, connection), pk) for pk, value in values.items()]
    with connection.cursor() as cursor:
        cursor.executemany(sql, rows)
