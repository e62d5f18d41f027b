"""The LoRA adapters that an engine serves beside its base model."""

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from llmapi.engine.messages import (
    AdapterFailed,
    AdapterInfo,
    AdapterLoaded,
    DropAdapter,
    EmbedRequest,
    GenerateRequest,
    Inbound,
    LoadAdapter,
)
from llmapi.errors import AdapterRefused, ModelNotFound, NameTaken, ServerUnavailable

logger = logging.getLogger(__name__)

LONGEST_NAME = 200
_NAME = re.compile(r"\w[\w.:@+-]*(/\w[\w.:@+-]*)*")


def why_no_name(name: str) -> str | None:
    """A sentence, if no model may be called so."""
    if len(name) > LONGEST_NAME:
        return f"a name has {LONGEST_NAME} characters at most ('{name[:20]}...' has {len(name)})"
    if not _NAME.fullmatch(name):
        return (
            f"'{name}' is no name of a model: give letters, digits and . _ - : @ + only, beginning "
            "with a letter or digit, with / between parts"
        )
    return None


def why_no_adapter(directory: Path) -> str | None:
    """A sentence, if that is no adapter; what is in its files is the engine's business."""
    if not directory.is_dir():
        return f"there is no directory '{directory}'"
    if not (directory / "adapter_config.json").is_file():
        return (
            f"'{directory}' has no adapter_config.json, so it is no LoRA adapter as peft saves it"
        )
    return None


class State(StrEnum):
    LOADING = "loading"
    SERVED = "served"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """How one adapter fares with the engine of this process."""

    name: str
    path: str
    """Empty: there is nothing that the engine could be asked to load."""

    configured: bool
    """Named by the settings: the server does not start without it."""

    created: int
    """Unix time in seconds."""

    info: AdapterInfo | None = None
    """Once it is served."""

    failure: str | None = None
    """Why it is not served, for whoever runs the server."""

    @property
    def state(self) -> State:
        if self.failure is not None:
            return State.FAILED
        return State.SERVED if self.info else State.LOADING


@dataclass(eq=False, slots=True)
class Ask:
    """A `LoadAdapter` that the engine has not answered yet."""

    name: str
    answer: Future[AdapterInfo] | None
    """Where somebody waits for it."""

    withdrawn: bool = False
    """Dropped meanwhile: the answer no longer says anything."""


class Adapters:
    """What is to be served, and what is.

    The engine answers in the order in which it is asked. Each engine is asked for all adapters as
    soon as it is ready, and gets no request for any before it has answered for all (`usable`).
    """

    def __init__(
        self, configured: Iterable[tuple[str, str]], send: Callable[[Inbound], bool]
    ) -> None:
        """`configured`: (name, directory). `send`: posts to the engine; False: there is none."""
        self._send = send
        self._lock = threading.Lock()
        now = int(time.time())
        self._statuses = {name: AdapterStatus(name, path, True, now) for name, path in configured}
        self._asked: deque[Ask] = deque()
        self._usable = False
        self._was_usable = False

    # ---- any thread -----------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether the engine is there and has answered for all of them."""
        return self._usable

    def statuses(self) -> list[AdapterStatus]:
        with self._lock:
            return list(self._statuses.values())

    def status(self, name: str) -> AdapterStatus | None:
        return self._statuses.get(name)

    def serves(self, name: str) -> bool:
        status = self._statuses.get(name)
        return status is not None and status.info is not None

    def restore(
        self, name: str, path: str, created: int, failure: str | None = None, *, tell: bool = True
    ) -> None:
        """Before the start: serve this one too, if it can be served. `failure`: why that is known
        to be impossible; the log has it unless the caller says it there (`tell`)."""
        with self._lock:
            status = AdapterStatus(name, path, False, created, failure=failure)
            self._statuses[name] = status
            if failure is not None and tell:
                self._tell(status)

    def load(self, name: str, path: str, timeout_s: float) -> None:
        """Have the engine serve one more, and wait until it does.

        Raises AdapterRefused with the engine's sentence, NameTaken, ServerUnavailable.
        """
        answer: Future[AdapterInfo] = Future()
        with self._lock:
            if name in self._statuses:
                raise NameTaken(name)
            if not self._usable:
                raise ServerUnavailable("The engine is not ready; try again in a moment.")
            self._statuses[name] = AdapterStatus(name, path, False, int(time.time()))
            self._ask(Ask(name, answer))
        try:
            answer.result(timeout_s)
        except TimeoutError:
            self.drop(name)
            raise ServerUnavailable(
                f"The engine did not load the adapter within {timeout_s:g} s, so this was given "
                "up; try again when it has less to do."
            ) from None

    def drop(self, name: str) -> None:
        """Serve it no longer; requests under way go on. Those of the settings stay."""
        with self._lock:
            status = self._statuses.get(name)
            if status is None or status.configured:
                return
            del self._statuses[name]
            for ask in self._asked:
                if ask.name == name and not ask.withdrawn:
                    ask.withdrawn = True
                    if ask.answer is not None:
                        ask.answer.set_exception(ServerUnavailable("The adapter was removed."))
            self._send(DropAdapter(name))

    def send(self, work: GenerateRequest | EmbedRequest) -> bool:
        """Post a request for one of them: never after its end, nor before it is loaded again.

        False: the engine is not ready. Raises ModelNotFound.
        """
        with self._lock:
            if not self._usable:
                return False
            if not self.serves(work.adapter):
                raise ModelNotFound(
                    f"The model '{work.adapter}' is no longer served here.", param="model"
                )
            return self._send(work)

    # ---- the link's thread ----------------------------------------------------------------------

    @property
    def obstacle(self) -> str | None:
        """Why the server cannot start, as a sentence."""
        for status in self.statuses():
            if status.configured and status.failure is not None:
                return (
                    f"The adapter '{status.name}' of LLMAPI_LORA_MODELS cannot be served: "
                    f"{status.failure}"
                )
        return None

    def begin(self, base: str) -> None:
        """An engine is ready, and serves `base`: ask it for all."""
        with self._lock:
            if base in self._statuses:
                self._fail(base, "The base model has this name; give the adapter another one.")
            for status in self._statuses.values():
                if status.path and status.name != base:
                    self._ask(Ask(status.name, None))
            self._usable = not self._asked
            self._was_usable = self._was_usable or self._usable

    def hear(self, message: AdapterLoaded | AdapterFailed) -> bool:
        """The engine's answer; true if it was the last one that `begin` waited for."""
        name = message.info.name if isinstance(message, AdapterLoaded) else message.name
        with self._lock:
            if not self._asked or self._asked[0].name != name:
                return False  # nobody asked
            ask = self._asked.popleft()
            if not ask.withdrawn:
                self._take(ask, message)
            was_usable, self._usable = self._usable, self._usable or not self._asked
            self._was_usable = self._was_usable or self._usable
            return self._usable and not was_usable

    def lost(self, *, starting: bool) -> None:
        """The engine has ended. `starting`: there was none before it that was ready; an adapter in
        whose loading it ended is not tried again, for the next one would end there too."""
        with self._lock:
            self._usable = False
            asked, self._asked = self._asked, deque()
            for place, ask in enumerate(asked):
                if ask.answer is not None and not ask.withdrawn:
                    self._statuses.pop(ask.name, None)
                    ask.answer.set_exception(
                        ServerUnavailable("The engine ended while it loaded the adapter.")
                    )
                elif starting and place == 0:
                    self._fail(ask.name, "The engine ended while it loaded the adapter.")

    # ---- with the lock held ---------------------------------------------------------------------

    def _ask(self, ask: Ask) -> None:
        self._asked.append(ask)
        self._send(LoadAdapter(ask.name, self._statuses[ask.name].path))

    def _take(self, ask: Ask, message: AdapterLoaded | AdapterFailed) -> None:
        status = self._statuses[ask.name]
        if isinstance(message, AdapterLoaded):
            self._statuses[ask.name] = replace(status, info=message.info, failure=None)
            if ask.answer is not None:
                ask.answer.set_result(message.info)
        elif ask.answer is not None:
            del self._statuses[ask.name]
            ask.answer.set_exception(AdapterRefused(message.message))
        else:
            self._statuses[ask.name] = replace(status, info=None, failure=message.message)
            self._tell(self._statuses[ask.name])

    def _fail(self, name: str, failure: str) -> None:
        """For good: no engine is asked for it again."""
        failed = replace(self._statuses[name], path="", info=None, failure=failure)
        self._statuses[name] = failed
        self._tell(failed)

    def _tell(self, failed: AdapterStatus) -> None:
        """One line in the log, if the failure does not end the start, which tells it itself."""
        if failed.configured:
            if self._was_usable:
                logger.error("The adapter '%s' is not served: %s", failed.name, failed.failure)
            return
        logger.warning(
            "The adapter '%s' that staff added is not served: %s Mend that, or remove it at "
            "/admin/ or by DELETE /v1/admin/adapters/%s",
            failed.name,
            failed.failure,
            failed.name,
        )
