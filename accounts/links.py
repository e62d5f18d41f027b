"""Links that staff hand to people: to become a user, and to set a password."""

import hashlib
import secrets
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode
from django.utils.translation import gettext as _

from accounts.models import Invitation, User
from accounts.rights import may_govern, user_locked

INVITATION_DAYS = 7
MOST_INVITATION_DAYS = 365


def link(path: str, request: HttpRequest | None = None) -> str:
    """The whole of a link, at the address where users reach this server: the operator's word, else
    where the request came to, else what the settings say."""
    options = settings.LLMAPI
    if options.public_url:
        return str(options.public_url).rstrip("/") + path
    return own_address() + path if request is None else request.build_absolute_uri(path)


def own_address() -> str:
    """Where this server listens, without a slash at the end."""
    options = settings.LLMAPI
    host = "127.0.0.1" if options.host in ("0.0.0.0", "::", "[::]") else options.host  # noqa: S104
    shown = f"[{host}]" if ":" in host.strip("[]") else host
    return f"http://{shown}:{options.port}"


# ---- passwords ----------------------------------------------------------------------------------


class PasswordTokens(PasswordResetTokenGenerator):
    """Void when a newer one is made, too, and when its user becomes staff: whoever made a link for
    an ordinary user may not have made one for staff."""

    def _make_hash_value(self, user: Any, timestamp: int) -> str:
        facts = (user.password_links, user.is_staff, user.is_superuser)
        return f"{super()._make_hash_value(user, timestamp)}{facts}"


password_tokens = PasswordTokens()


def password_path(user: User, made_by: User | None = None) -> str:
    """The path of a link by which this user sets a password, once. A newer link, a sign-in, a new
    password or the rights of staff make it void. made_by: who of the staff asks for it; None: the
    command line.

    Raises ValidationError for a user who cannot sign in, or whom `made_by` does not govern.
    """
    with transaction.atomic():
        user = user_locked(user)
        if user.is_keyless:
            raise ValidationError(
                _("This user stands for requests without a key; it has no password.")
            )
        if not user.is_active:
            raise ValidationError(_("This user is not active, so it cannot sign in."))
        if made_by is not None and not may_govern(made_by, user):
            raise ValidationError("Superusers alone make links for staff.")
        user.password_links += 1
        user.save(update_fields=["password_links"])
    uid = urlsafe_base64_encode(force_bytes(user.pk))
    token = password_tokens.make_token(user)
    return reverse("password_link", kwargs={"uidb64": uid, "token": token})


# ---- invitations --------------------------------------------------------------------------------


class InvitationVoid(Exception):
    """Used, expired, or never made."""


def invitation_create(
    *, created_by: User, note: str = "", days: int = INVITATION_DAYS
) -> tuple[Invitation, str]:
    """An invitation and the path of its link, which is not kept and cannot be shown again."""
    token = secrets.token_urlsafe(32)
    invitation = Invitation.objects.create(
        digest=digest(token),
        note=note,
        created_by=created_by,
        expires_at=timezone.now() + timedelta(days=days),
    )
    return invitation, reverse("invitation", kwargs={"token": token})


def invitation_find(token: str) -> Invitation | None:
    """The invitation of a link, if it is still good."""
    return Invitation.objects.filter(
        digest=digest(token), used_at=None, expires_at__gt=timezone.now()
    ).first()


def invitation_accept(invitation: Invitation, user: User) -> None:
    """Saves a new user by an invitation: of several at once, one. Raises InvitationVoid."""
    now = timezone.now()
    with transaction.atomic():
        user.save(force_insert=True)
        used = Invitation.objects.filter(pk=invitation.pk, used_at=None, expires_at__gt=now).update(
            used_at=now, used_by=user
        )
        if not used:
            raise InvitationVoid


def invitation_withdraw(invitation: Invitation) -> bool:
    """Makes a link void. False if it was already."""
    now = timezone.now()
    return bool(
        Invitation.objects.filter(pk=invitation.pk, used_at=None, expires_at__gt=now).update(
            expires_at=now
        )
    )


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
