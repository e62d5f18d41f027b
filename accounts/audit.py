"""The audit log: what somebody did to another's texts. Only ever appended."""

from typing import Any

from django.http import HttpRequest

from accounts.addresses import client_address
from accounts.models import AuditEvent, User

TARGET_LENGTH = 200


def record(
    action: AuditEvent.Action | str,
    target: str,
    actor: User | None = None,
    detail: dict[str, Any] | None = None,
    address: str | None = None,
) -> AuditEvent:
    """Writes down that `actor` did `action` to `target` (`user alice`, `conv_...`); None as
    actor is the server itself, or a command on its machine. `detail` holds numbers and names,
    nothing of what was said. In the caller's transaction, if it has one: what was rolled back was
    not done.
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
    """`record` for whoever is signed in, with the address that they come from. Before the deed: one
    that cannot be recorded is not done."""
    assert isinstance(request.user, User)
    return record(action, target, actor=request.user, detail=detail, address=address_of(request))


def address_of(request: HttpRequest) -> str | None:
    """The client's, as it is kept: without an IPv6 zone, which PostgreSQL does not know. None where
    there is none (a Unix socket)."""
    return client_address(request).partition("%")[0] or None
