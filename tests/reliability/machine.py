"""On what was measured, for whoever reads the table."""

import sqlite3

import psycopg

from benchmarks.machine import description
from tests.environment import POSTGRES_URL


def facts() -> list[str]:
    """Lines of a list."""
    told = description()
    packages = ", ".join(f"{name} {version}" for name, version in told["packages"].items())
    return [
        f"- {told['date'][:10]}, commit {told['commit']}",
        f"- {told['cpu']}, {told['cores']} cores, {told['memory_gib']} GiB, {told['system']}",
        f"- Python {told['python']}, {packages}",
        f"- SQLite {sqlite3.sqlite_version}, PostgreSQL {postgres_version()}",
    ]


def postgres_version() -> str:
    try:
        with psycopg.connect(POSTGRES_URL, connect_timeout=3) as connection:
            version = connection.info.server_version
    except psycopg.OperationalError:
        return "not there"
    return f"{version // 10000}.{version % 10000}"
