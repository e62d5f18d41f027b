"""How operators name a key."""

from django.core.management.base import CommandError

from accounts import keys
from accounts.models import ApiKey


def key_named(text: str) -> ApiKey:
    """The key whose public id this is; what an operator has at hand may also be the key as it is
    shown, or the whole key. Raises CommandError."""
    whole = keys.parse(text)
    public_id = whole.public_id if whole else text.removeprefix(keys.PREFIX).partition("…")[0]
    key = ApiKey.objects.select_related("user").filter(public_id=public_id).first()
    if key is None:
        # Not what was typed: it may be a key.
        raise CommandError("There is no such key. 'manage.py keys' lists the public ids.")
    return key
