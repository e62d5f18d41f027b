"""The models that requests may name. `accounts` knows none: the settings name the functions of
others that do."""

from collections.abc import Collection, Iterable

from django.conf import settings
from django.utils.module_loading import import_string


def offered_models() -> list[str]:
    """Ids and aliases that this process serves at present."""
    names: list[str] = import_string(settings.OFFERED_MODELS)()
    return names


def configured_models() -> list[str]:
    """Those that a server with these settings serves: for commands, which serve nothing."""
    names: list[str] = import_string(settings.CONFIGURED_MODELS)()
    return names


def unknown_among(names: Iterable[str], known: Collection[str]) -> list[str]:
    """Those that are none of the known ones; [] where none is known, for then nothing can be
    told."""
    return [name for name in names if name not in known] if known else []
