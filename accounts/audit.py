"""The audit log: what somebody did to another's things. Only ever appended."""

from typing import Any

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
