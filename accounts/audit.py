"""The audit log: what staff, and commands, did to another's things. Only ever appended."""

import ipaddress
from typing import Any

from django.http import HttpRequest

from accounts.models import AuditEvent, User

TARGET_LENGTH = 200


def record(
    action: AuditEvent.Action,
    target: str,
    *,
    actor: User | None = None,
    detail: dict[str, Any] | None = None,
    address: str | None = None,
) -> AuditEvent:
    """Notes that `actor` (None: a command on the server's machine) did `action` to `target`.

    target, detail: ids, names and numbers; nothing of what was said. Record before the deed: one
    that cannot be recorded is not done.
    """
    return AuditEvent.objects.create(
        action=action,
        target=target[:TARGET_LENGTH],
        actor=actor,
        detail=detail or {},
        address=address,
    )


def record_for(
    request: HttpRequest, action: AuditEvent.Action, target: str, **detail: Any
) -> AuditEvent:
    """`record` for whoever is signed in, with the address that they come from."""
    assert isinstance(request.user, User)
    return record(action, target, actor=request.user, detail=detail, address=address_of(request))


def address_of(request: HttpRequest) -> str | None:
    """The other end of the connection; behind a proxy, what the proxy told daphne. None where there
    is none (a Unix socket)."""
    text = request.META.get("REMOTE_ADDR") or ""
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))  # no zone: PostgreSQL knows none
    except ValueError:
        return None
