"""The engine's own process, and the pipe that it lives on."""

import gc
import logging
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from transformers.utils import logging as transformers_logging

from llmapi.engine.config import EngineConfig
from llmapi.engine.engine import Engine
from llmapi.engine.loader import load
from llmapi.engine.messages import (
    Abort,
    DropAdapter,
    Inbound,
    LoadAdapter,
    LoadFailed,
    LogLine,
    Outbound,
    Ready,
)
from llmapi.engine.source import LoadError

log = logging.getLogger(__name__)

FLUSH_S = 10.0
"""How long the last messages may take to reach a reader that has stopped reading."""

FIGURES_EVERY_S = 0.1


def worker_process(conn: Connection, config: EngineConfig) -> None:
    """The whole life of an engine process: give this to `multiprocessing`'s spawn context.

    Ctrl-C and SIGTERM go to the whole process group; the web process alone decides when the engine
    may end, by closing its end of the pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _introduce()
    run_worker(conn, config)


def run_worker(conn: Connection, config: EngineConfig, *, exit_when_closed: bool = True) -> None:
    """Load, then serve until the other end of `conn` closes.

    `exit_when_closed`: end the process at once, in the middle of whatever it is doing. False, for
    an engine in a thread: return after the current step.
    """
    inbox = Inbox(conn, on_close=_exit_now if exit_when_closed else _nothing)
    outbox = Outbox(conn)
    if exit_when_closed:  # a thread has the log of its process
        _log_over(outbox)
    try:
        loaded = load(config, report=outbox.put)
    except LoadError as error:
        outbox.put(LoadFailed(str(error)))
    except Exception as error:
        log.exception("Loading failed")
        outbox.put(LoadFailed(f"The model could not be loaded ({type(error).__name__}: {error})."))
    else:
        outbox.put(Ready(loaded.info))
        # A million objects of libraries and model live for ever: the collector need not look at
        # them, which would stop all streams for a tenth of a second now and then.
        gc.collect()
        gc.freeze()
        try:
            serve(loaded.engine, inbox, outbox)
        except Exception:
            log.exception("The engine has failed")
            raise SystemExit(1) from None
    finally:
        outbox.close()


def serve(engine: Engine, inbox: "Inbox", outbox: "Outbox") -> None:
    """Steps while there is work, sleeps while there is none, returns when the inbox is closed."""
    figures_at = 0.0
    while not inbox.closed:
        if not engine.has_work:
            outbox.put(engine.figures())  # else it would pass for busy while it sleeps
            inbox.wait()
        for message in inbox.drain():
            match message:
                case Abort():
                    engine.abort(message.request_id)
                case LoadAdapter():
                    outbox.put(engine.load_adapter(message.name, message.path))
                case DropAdapter():
                    engine.drop_adapter(message.name)
                case _:
                    engine.add(message)
        if engine.has_work:
            outbox.put(engine.step())
            if time.monotonic() >= figures_at:
                figures_at = time.monotonic() + FIGURES_EVERY_S
                outbox.put(engine.figures())


class Inbox:
    """What has arrived; filled by its own thread, so that a closed pipe is noticed in mid-step."""

    def __init__(self, conn: Connection, on_close: Callable[[], None]) -> None:
        self._conn = conn
        self._on_close = on_close
        self._messages: deque[Inbound] = deque()
        self._changed = threading.Condition()
        self.closed = False
        threading.Thread(target=self._read, name="engine-inbox", daemon=True).start()

    def drain(self) -> list[Inbound]:
        with self._changed:
            messages = list(self._messages)
            self._messages.clear()
            return messages

    def wait(self) -> None:
        """Sleep until something arrives or the pipe closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self.closed)

    def _read(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                message = self._conn.recv()
                with self._changed:
                    self._messages.append(message)
                    self._changed.notify_all()
        with self._changed:
            self.closed = True
            self._changed.notify_all()
        self._on_close()


class Outbox:
    """What is to be sent; emptied by its own thread, so that a slow reader never stops a step."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._messages: queue.SimpleQueue[Outbound | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="engine-outbox", daemon=True)
        self._writer.start()

    def put(self, message: Outbound) -> None:
        self._messages.put(message)

    def close(self) -> None:
        """Send what is left, as long as somebody reads it."""
        self._messages.put(None)
        self._writer.join(FLUSH_S)

    def _write(self) -> None:
        with suppress(OSError):
            while (message := self._messages.get()) is not None:
                self._conn.send(message)


class OutboxLog(logging.Handler):
    """The log of an engine process, which the web process writes: in the form that is set there,
    and never two lines into one another."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self._outbox = outbox

    def emit(self, record: logging.LogRecord) -> None:
        self._outbox.put(LogLine(record.levelno, record.name, self.format(record)))


def _log_over(outbox: Outbox) -> None:
    logging.getLogger().addHandler(OutboxLog(outbox))
    logging.captureWarnings(True)


def _exit_now() -> None:
    os._exit(0)


def _nothing() -> None:
    pass


def _introduce() -> None:
    """A name in `ps`, and a word to the out-of-memory killer: rather this process than the API."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text("llmapi-engine")
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
