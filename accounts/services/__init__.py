"""Writes of users and keys: what the other rooms and apps call."""

from accounts.services.keys import (
    LONGEST_MODEL_NAME,
    KeyLimits,
    check_models,
    check_scopes,
    key_create,
    key_issue,
    key_rename,
    key_revoke,
    key_rotate,
    key_used,
    limits_of,
)
from accounts.services.playground_keys import (
    PLAYGROUND_KEY_LIVES,
    PLAYGROUND_KEYS,
    playground_key_create,
    playground_keys_end,
)
from accounts.services.users import (
    anonymous_user,
    first_staff_create,
    others_locked_out,
    password_set,
    user_get_or_create,
    user_retire,
)

__all__ = [
    "LONGEST_MODEL_NAME",
    "PLAYGROUND_KEYS",
    "PLAYGROUND_KEY_LIVES",
    "KeyLimits",
    "anonymous_user",
    "check_models",
    "check_scopes",
    "first_staff_create",
    "key_create",
    "key_issue",
    "key_rename",
    "key_revoke",
    "key_rotate",
    "key_used",
    "limits_of",
    "others_locked_out",
    "password_set",
    "playground_key_create",
    "playground_keys_end",
    "user_get_or_create",
    "user_retire",
]
