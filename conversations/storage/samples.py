"""What PostgreSQL samples of columns, to plan by: not the words that people said.

ANALYZE keeps values as it finds them, and what is erased later stays in the samples until it comes
by again. Rows are hardly ever looked up by these columns, so little is planned by them.
"""

from typing import Any

from django.db import migrations


def no_samples(table: str, *columns: str) -> migrations.RunPython:
    """An operation for the migration that adds these columns, or a later one. On SQLite, whose
    statistics are counts, it does nothing."""

    def forget(apps: Any, schema_editor: Any) -> None:
        if schema_editor.connection.vendor != "postgresql":
            return
        quote = schema_editor.quote_name
        for column in columns:
            with schema_editor.connection.cursor() as cursor:
                cursor.execute(
                    "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
                    "WHERE attrelid = %s::regclass AND attname = %s",
                    [table, column],
                )
                (kind,) = cursor.fetchone()
            alter = f"ALTER TABLE {quote(table)} ALTER COLUMN {quote(column)}"
            schema_editor.execute(f"{alter} SET STATISTICS 0")
            # To the type that it has: nothing is written anew, but its samples are dropped.
            schema_editor.execute(f"{alter} TYPE {kind}")

    return migrations.RunPython(forget, migrations.RunPython.noop)
