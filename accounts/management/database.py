"""What commands say when the database fails them."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management.base import CommandError
from django.db import OperationalError, ProgrammingError


@contextmanager
def failing_as(what_was_not_done: str) -> Iterator[None]:
    """Errors of the database as a CommandError that begins with this."""
    try:
        yield
    except (OperationalError, ProgrammingError) as error:
        raise CommandError(
            f"{what_was_not_done}; the database says: {str(error).splitlines()[0]}. If it is a new "
            "one, start the server once, or run 'manage.py migrate'."
        ) from error
