"""The web process's end of the pipe: starts the engine process, hears it, and starts it again."""

import atexit
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Protocol

from llmapi.backends.watchdog import Watchdog
from llmapi.engine.config import EngineConfig
from llmapi.engine.messages import Inbound, LoadFailed, Outbound, Ready

logger = logging.getLogger(__name__)

RESTART_DELAY_S = 0.2
LONGEST_RESTART_DELAY_S = 30.0
LONG_LIFE_S = 60.0

KILLED_S = 5.0
"""How long one that was killed may take to be gone. One that waits for a broken device may never
be; it must not keep the next one waiting."""


class EngineHandle(Protocol):
    """What runs the worker: a process, or a thread in tests."""

    def join(self, timeout: float | None = None) -> None: ...

    def is_alive(self) -> bool: ...


Launch = Callable[[Connection, EngineConfig], EngineHandle]


def launch_process(theirs: Connection, config: EngineConfig) -> EngineHandle:
    """The engine as a child process: its own GIL, and its crash is not ours."""
    # Between two steps OpenMP's threads spin before they sleep, long by default, on the cores that
    # the web process needs at that very moment. docs/benchmarks.md has figures. libgomp reads it
    # when the child starts.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    process = multiprocessing.get_context("spawn").Process(
        target=engine_process, args=(theirs, config), name="llmapi-engine"
    )
    # Ctrl-C goes to the whole process group, also while the child is still importing. A blocked
    # signal stays blocked in the child; that process alone is ended by its pipe. The tracker is
    # started before, for its start unblocks these signals, whoever had blocked them.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return process


def engine_process(theirs: Connection, config: EngineConfig) -> None:
    """What the child runs. It alone imports the worker: torch takes seconds, and two threads of the
    web process must not import transformers at the same time."""
    from llmapi.engine.worker import worker_process

    worker_process(theirs, config)


def launch_thread(theirs: Connection, config: EngineConfig) -> EngineHandle:
    """The same worker in a thread of this process, for tests."""
    from llmapi.engine.worker import run_worker

    thread = threading.Thread(
        target=run_worker,
        args=(theirs, config),
        kwargs={"exit_when_closed": False},
        name="engine",
        daemon=True,
    )
    thread.start()
    return thread


class EngineLink:
    """One engine at a time, for as long as the server lives.

    `on_message` and `on_lost` are called on the link's own thread; `on_lost` gets a sentence and
    whether another engine will be started. An engine that says nothing for `stall_timeout_s`
    while `is_awaited()` is killed; 0: it may take its time.
    """

    def __init__(
        self,
        config: EngineConfig,
        launch: Launch,
        on_message: Callable[[Outbound], None],
        on_lost: Callable[[str, bool], None],
        *,
        is_awaited: Callable[[], bool] = lambda: True,
        stall_timeout_s: float = 0.0,
    ) -> None:
        self.config = config
        self.launch = launch
        self.on_message = on_message
        self.on_lost = on_lost
        self.is_awaited = is_awaited
        self.stall_timeout_s = stall_timeout_s
        self.handle: EngineHandle | None = None
        self.restarts = 0
        """Engines that were started after the first."""
        self._outbox: SimpleQueue[Inbound | None] | None = None
        self._connection: Connection | None = None
        self._stopping = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="engine-link", daemon=True)

    def start(self) -> None:
        # Registered after multiprocessing's own exit hook, so it runs before that one waits for
        # the child, which ends only when the pipe does.
        atexit.register(self.stop)
        self._supervisor.start()

    @property
    def pid(self) -> int | None:
        """Of the engine's process; None if there is none, or not yet."""
        handle = self.handle
        return handle.pid if isinstance(handle, multiprocessing.process.BaseProcess) else None

    def send(self, message: Inbound) -> bool:
        """Hand over to the writer thread; False if there is no engine to send to."""
        outbox = self._outbox
        if outbox is None:
            return False
        outbox.put(message)
        return True

    def stop(self) -> None:
        """Close the pipe, which ends the engine, and wait for it."""
        self._stopping.set()
        self._hang_up()
        if self._supervisor.is_alive():
            self._supervisor.join(timeout=15)
        atexit.unregister(self.stop)

    # ---- the link's thread ----------------------------------------------------------------------

    def _supervise(self) -> None:
        delay_s = RESTART_DELAY_S
        has_served = False
        while not self._stopping.is_set():
            began = time.monotonic()
            ending = self._one_life(has_served)
            has_served = has_served or ending.was_ready
            # A model that never loaded will not load the second time; one that did may be back
            # when memory is.
            again = not self._stopping.is_set() and (has_served or not ending.load_failed)
            # First, for requests shall not wait for a process that is slow to end.
            self.on_lost(ending.sentence, again)
            self._end(timeout_s=10 if ending.was_ready else 1)
            if not again:
                return
            if time.monotonic() - began > LONG_LIFE_S:
                delay_s = RESTART_DELAY_S
            logger.warning("%s Starting it again in %.1f s.", ending.sentence, delay_s)
            self._stopping.wait(delay_s)
            self.restarts += not self._stopping.is_set()
            delay_s = min(delay_s * 2, LONGEST_RESTART_DELAY_S)

    def _one_life(self, has_served: bool) -> "Ending":
        """Start an engine and hear it to its end."""
        ending = Ending()
        try:
            self._launch()
        except Exception as error:  # no memory, no process or no thread to be had
            ending.sentence = f"The engine process could not be started: {error}."
            return ending
        connection, outbox = self._connection, self._outbox
        assert connection is not None
        assert outbox is not None
        end_stalled = partial(self._end_stalled, ending, self.handle, connection)
        watchdog = Watchdog(self.stall_timeout_s, self.is_awaited, end_stalled)
        # Its own thread: sending a long prompt to a busy engine blocks for seconds.
        writer = threading.Thread(
            target=write_all, args=(connection, outbox), name="engine-writer", daemon=True
        )
        writer.start()
        if self._stopping.is_set():
            self._hang_up()
        try:
            while True:
                message: Outbound = connection.recv()
                watchdog.heard()
                self.on_message(message)
                if isinstance(message, Ready):
                    ending.was_ready = True
                    if self.stall_timeout_s:
                        watchdog.start()
                elif isinstance(message, LoadFailed):
                    ending.load_failed = True
                    ending.sentence = message.message
        except (EOFError, OSError):
            pass
        except Exception as error:  # from on_message: without it we could not go on
            logger.exception("The engine's message could not be taken in")
            ending.load_failed = not has_served
            ending.sentence = f"The engine's message could not be taken in: {error}"
        finally:
            watchdog.stop()
            self._outbox = None
            outbox.put(None)
            hang_up(connection)  # which wakes the writer, too
            writer.join(timeout=5)
            self._connection = None
            connection.close()
        return ending

    def _launch(self) -> None:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        try:
            self.handle = self.launch(theirs, self.config)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        self._connection, self._outbox = ours, SimpleQueue()

    def _end(self, timeout_s: float) -> None:
        """Its pipe is closed; one that is still importing would hear that only seconds later."""
        handle, self.handle = self.handle, None
        if handle is None:
            return  # it could not even be started
        handle.join(timeout_s)
        if handle.is_alive() and isinstance(handle, multiprocessing.process.BaseProcess):
            handle.kill()
            handle.join(KILLED_S)
            if handle.is_alive():
                logger.error("Engine process %s does not end although it was killed.", handle.pid)

    def _end_stalled(
        self, ending: "Ending", handle: EngineHandle | None, connection: Connection
    ) -> None:
        """On the watchdog's thread: the engine hears nothing, so it is killed; then its pipe is
        closed as after any other end."""
        ending.sentence = (
            f"The engine finished nothing for {self.stall_timeout_s:g} s while requests waited "
            "(LLMAPI_ENGINE_TIMEOUT_S), so it was killed."
        )
        if isinstance(handle, multiprocessing.process.BaseProcess):
            handle.kill()
        hang_up(connection)  # also if it does not die

    def _hang_up(self) -> None:
        connection = self._connection
        if connection is not None:
            hang_up(connection)


def hang_up(connection: Connection) -> None:
    """End both directions of the pipe; unlike close(), this wakes a reader that is blocked."""
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as pipe:
            pipe.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side was first, or it is closed


class Ending:
    """How one engine's life went."""

    def __init__(self) -> None:
        self.was_ready = False
        self.load_failed = False
        self.sentence = "The engine process ended unexpectedly."


def write_all(connection: Connection, outbox: "SimpleQueue[Inbound | None]") -> None:
    """Send what is put into the outbox until None comes or the other side is gone."""
    while (message := outbox.get()) is not None:
        try:
            connection.send(message)
        except OSError:
            return
