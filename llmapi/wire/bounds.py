"""What clients may take of this process by their connections alone."""

import resource
from dataclasses import dataclass, fields
from typing import Any

RESERVED_FILES = 256
"""Kept for the database, logs, pipes and the model's files."""

MOST_CONNECTIONS = 4096


@dataclass(frozen=True, slots=True)
class Bounds:
    """Settings of the same names; config/env.py says what they mean."""

    max_body_bytes: int
    max_bodies_bytes: int
    max_unread_bytes: int
    max_connections: int | None
    header_timeout_s: float
    body_timeout_s: float
    idle_timeout_s: float
    stalled_timeout_s: float

    @classmethod
    def of(cls, options: Any) -> "Bounds":
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    @property
    def connections(self) -> int:
        """As many as may be open, if nothing else is set: what the process may have of files."""
        if self.max_connections is not None:
            return self.max_connections
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return min(MOST_CONNECTIONS, max(files - RESERVED_FILES, files // 2))
