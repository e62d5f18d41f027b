"""Adapters that staff add and remove while the server runs, by the API or in the admin."""

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.contrib.admin.models import ADDITION, DELETION, LogEntry
from django.db import IntegrityError, transaction

from accounts.errors import ApiError
from accounts.models import User
from conversations.storage.writing import write_transaction
from llmapi.backends.adapters import Adapters, AdapterStatus, State, why_no_adapter, why_no_name
from llmapi.errors import AdapterRefused, InvalidRequest, NameTaken
from llmapi.models import Adapter
from llmapi.services import models

logger = logging.getLogger(__name__)

LOAD_TIMEOUT_S = 120.0
DEEPEST = 3
MOST_DIRECTORIES = 1000


class AddingOff(ApiError):
    """403: the operator named no directory from which adapters may be added."""

    status_code = 403
    code = "adapters_off"


class UnknownAdapter(ApiError):
    status_code = 404
    code = "adapter_not_found"


class AdapterInUse(ApiError):
    """409: the settings need it."""

    status_code = 409
    code = "adapter_in_use"


@dataclass(frozen=True, slots=True)
class ListedAdapter:
    """An adapter of the settings or of staff, and how it fares in this process."""

    name: str
    status: AdapterStatus | None
    """None: this process knows nothing of it."""

    row: Adapter | None
    """None: the settings name it, or staff have removed it by another process."""

    @property
    def configured(self) -> bool:
        return self.status is not None and self.status.configured

    @property
    def state(self) -> State:
        return self.status.state if self.status else State.FAILED

    @property
    def failure(self) -> str | None:
        if self.status is None:
            return "It was added by another server process; this one serves it from its next start."
        return self.status.failure


def adapter_add(*, name: str, path: str, by: User) -> Adapter:
    """Have the engine serve it, and keep it for later starts. Blocks while the engine loads it, so
    call it in no transaction.

    `path`: a directory below LLMAPI_ADAPTERS_DIR. Raises ApiError with what to do.
    """
    if reason := why_no_name(name):
        raise InvalidRequest(f"{reason[0].upper()}{reason[1:]}.", param="name")
    directory = directory_of(path)
    if is_taken(name):
        raise name_taken(name)
    if models.adapters is None:
        raise AdapterRefused("The model that is served here cannot have adapters.")
    models.adapters.load(name, str(directory), LOAD_TIMEOUT_S)
    row = Adapter(name=name, path=str(directory.relative_to(root())), added_by=by)
    try:
        with write_transaction():
            row.save(force_insert=True)
            log(by, row, ADDITION, f"Served from '{row.path}'.")
    except BaseException as error:
        models.adapters.drop(name)
        if isinstance(error, IntegrityError):  # another process was faster
            raise NameTaken(name) from error
        raise
    logger.info("%s added the adapter '%s' from '%s'", by.get_username(), name, row.path)
    return row


def adapter_remove(*, name: str, by: User) -> None:
    """Serve it to no new request, now and after later starts. Raises ApiError."""
    row = Adapter.objects.filter(name=name).first()
    status = models.adapters.status(name) if models.adapters else None
    configured = status is not None and status.configured
    if row is None and configured:
        raise AdapterInUse(
            f"The adapter '{name}' is named by LLMAPI_LORA_MODELS: take it out there and start the "
            "server again."
        )
    if row is None and (status is None or status.info is None):
        raise UnknownAdapter(f"There is no adapter '{name[:200]}'.")
    aliases = [alias for alias, target in models.aliases.items() if target == name]
    if aliases and not configured:
        raise AdapterInUse(
            f"The alias '{aliases[0]}' stands for the adapter '{name}': take it out of "
            "LLMAPI_MODEL_ALIASES and start the server again first."
        )
    with write_transaction():
        if row is not None:
            log(by, row, DELETION, f"No longer served (from '{row.path}').")
            row.delete()
        if models.adapters is not None:
            # Not before: a removal that is rolled back removes nothing.
            drop = models.adapters.drop
            transaction.on_commit(lambda: drop(name))
    logger.info("%s removed the adapter '%s'", by.get_username(), name)


def adapters_restore(adapters: Adapters | None, aliases: Collection[str]) -> None:
    """Before the start: serve again what staff had added. Those that cannot be served are logged,
    and listed as failed."""
    if adapters is None:
        return
    off = settings.LLMAPI.adapters_dir is None
    if off and (names := [*Adapter.objects.values_list("name", flat=True)]):
        logger.warning(
            "Adapters that staff added are not served, for LLMAPI_ADAPTERS_DIR is not set: %s",
            ", ".join(names),
        )
    for row in Adapter.objects.all():
        status = adapters.status(row.name)
        if status is not None:  # the settings have another one of this name
            logger.warning(
                "The adapter '%s' that staff added is not served: LLMAPI_LORA_MODELS has another "
                "one of this name",
                row.name,
            )
            continue
        path, failure = "", None
        try:
            path = str(directory_of(row.path))
        except ApiError as error:
            failure = error.message
        if row.name in aliases:
            path, failure = "", "LLMAPI_MODEL_ALIASES has this name."
        adapters.restore(
            row.name,
            path,
            int(row.added_at.timestamp()),
            failure,
            tell=not off or row.name in aliases,
        )


def adapters_listed() -> list[ListedAdapter]:
    """Those of the settings, then those that staff added."""
    rows = [listed(row) for row in Adapter.objects.select_related("added_by")]
    statuses = models.adapters.statuses() if models.adapters else []
    named = {adapter.name for adapter in rows}
    others = [ListedAdapter(s.name, s, None) for s in statuses if s.name not in named]
    taken = [ListedAdapter(s.name, s, None) for s in statuses if s.name in named and s.configured]
    return others + taken + rows


def listed(row: Adapter) -> ListedAdapter:
    status = models.adapters.status(row.name) if models.adapters else None
    if status is not None and status.configured:
        taken = "LLMAPI_LORA_MODELS has another adapter of this name."
        status = AdapterStatus(row.name, "", False, 0, failure=taken)
    return ListedAdapter(row.name, status, row)


# ---- names and directories ----------------------------------------------------------------------


def is_taken(name: str) -> bool:
    """By a model, by an adapter that is not served at present, or by an alias."""
    served = models.adapters is not None and models.adapters.status(name) is not None
    named = name in models.aliases or any(card.id == name for card in models.cards())
    return served or named or Adapter.objects.filter(name=name).exists()


def name_taken(name: str) -> NameTaken:
    """With what can be done about it: an adapter that failed keeps its name."""
    row = Adapter.objects.filter(name=name).first()
    adapter = listed(row) if row else None
    if adapter is None or adapter.state is not State.FAILED:
        return NameTaken(name)
    return NameTaken(
        name,
        f"The adapter '{name}' is there already, and it is not served: {adapter.failure} Mend that "
        f"and start the server again, or remove it (DELETE /v1/admin/adapters/{name}) and add it "
        "again.",
    )


def root() -> Path:
    """LLMAPI_ADAPTERS_DIR, every link resolved. Raises AddingOff."""
    directory: Path | None = settings.LLMAPI.adapters_dir
    if directory is None:
        raise AddingOff(
            "Adapters cannot be added while this server runs, for its operator named no directory "
            "for them (LLMAPI_ADAPTERS_DIR)."
        )
    return directory.expanduser().resolve()


def directory_of(path: str) -> Path:
    """The adapter's directory, every link resolved, with all that is in it inside the one
    directory. Raises ApiError; of what lies outside, its sentence tells nothing."""
    top = root()
    try:
        directory = (top / path).resolve()
        if directory == top:
            raise InvalidRequest(
                "The path is the directory of adapters itself (LLMAPI_ADAPTERS_DIR); give that of "
                "one adapter inside, relative to it.",
                param="path",
            )
        if not is_inside(directory, top):
            raise InvalidRequest(
                "The path leads out of the directory of adapters (LLMAPI_ADAPTERS_DIR); give one "
                "inside, relative to it.",
                param="path",
            )
        if why_no_adapter(directory):
            raise InvalidRequest(
                f"The directory of adapters has no '{path}' with an adapter_config.json in it.",
                param="path",
            )
        outside = next((e for e in directory.iterdir() if not is_inside(e.resolve(), top)), None)
    except (OSError, RuntimeError, ValueError) as error:  # too long, links in a circle, NUL
        raise InvalidRequest("The path cannot be followed.", param="path") from error
    if outside is not None:
        raise InvalidRequest(
            f"'{outside.name}' in '{path}' is a link that leads out of the directory of adapters; "
            "put the file itself there.",
            param="path",
        )
    return directory


def is_inside(path: Path, top: Path) -> bool:
    return path != top and path.is_relative_to(top)


def directories() -> list[str]:
    """The directories from which adapters can be added, relative to LLMAPI_ADAPTERS_DIR; a
    thousand at most. Raises AddingOff."""
    top = root()
    found: list[str] = []
    for place, below, files in os.walk(top):
        relative = Path(place).relative_to(top)
        if len(relative.parts) >= DEEPEST:
            below.clear()
        below.sort()
        if "adapter_config.json" in files and relative.parts:
            found.append(str(relative))
        if len(found) == MOST_DIRECTORIES:
            break
    return found


def log(by: User, row: Adapter, action: int, message: str) -> None:
    LogEntry.objects.log_actions(by.pk, [row], action, message, single_object=True)
