"""Conditions that are not to choose the index.

A user's rows are found by the index over user and time. SQLite, as long as it has no statistics,
takes an equation on kind, model or status to be as selective, and may walk the whole table by the
index over that column. A condition on an expression cannot.
"""

from typing import TypeVar

from django.db import models
from django.db.models import QuerySet, Value
from django.db.models.functions import Coalesce

Row = TypeVar("Row", bound=models.Model)


def plainly(rows: QuerySet[Row], **wanted: str) -> QuerySet[Row]:
    """`rows.filter(**wanted)` of text columns, of those rows that another condition finds."""
    expressions = {f"plain_{name}": Coalesce(name, Value("")) for name in wanted}
    values = {f"plain_{name}": value for name, value in wanted.items()}
    return rows.alias(**expressions).filter(**values)
