"""`manage.py serve`: everything that a server needs, from an empty directory to a ready model."""

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from channels.routing import get_default_application
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, OperationalError, connection, connections
from django.db.migrations.executor import MigrationExecutor
from pydantic import ValidationError
from redis import RedisError

from accounts.limits.limiter import limiter
from accounts.limits.shared import SharedStore
from accounts.logs import log_what_nobody_catches
from accounts.services import first_staff_create
from conversations.processes.lockfile import LockFile
from conversations.processes.registration import ProcessRegistration
from llmapi.adapters import adapters_restore
from llmapi.backends.base import BackendFailed
from llmapi.configured import configured_backends
from llmapi.executors import admission, database, disk, readiness
from llmapi.readings import watched
from llmapi.running import running
from llmapi.services import models

logger = logging.getLogger(__name__)

FLAGS: dict[str, dict[str, Any]] = {
    "base_model": {"metavar": "MODEL"},
    "lora_model": {"metavar": "DIR"},
    "lora_models": {"flag": "--lora_modules", "metavar": "NAME=DIR", "nargs": "+"},
    "tokenizer_path": {"metavar": "DIR"},
    "gpus": {"metavar": "N[,N...]"},
    "only_cpu": {"action": "store_true"},
    "load_in_8bit": {"action": "store_true"},
    "load_in_4bit": {"action": "store_true"},
    "prompt_template": {"metavar": "TEMPLATE"},
    "host": {"metavar": "ADDRESS"},
    "port": {"type": int, "metavar": "PORT"},
}
MIGRATION_LOCK = 0x6C6C6D617069  # "llmapi"
LOOPBACK = ("127.0.0.1", "::1", "[::1]", "localhost")


class Command(BaseCommand):
    help = (
        "Serve a model: migrates the database if needed, loads the model, answers HTTP. "
        "Every flag has a variable (--base_model: LLMAPI_BASE_MODEL); see docs/settings.md."
    )
    # Checks and the look at migrations would run before the port is tried; both are done below.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        fields = type(settings.LLMAPI).model_fields
        for name, kwargs in FLAGS.items():
            kind = {"default": None, "help": fields[name].description, **kwargs, "dest": name}
            kind.pop("flag", None)
            parser.add_argument(flag_of(name), **kind)

    def handle(self, *args: Any, **flags: Any) -> None:
        options = options_with(flags)
        try:
            backends = configured_backends(options)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error

        # Imported late: daphne installs Twisted's reactor, which other commands do not want.
        from llmapi.server import DoorServer, bind
        from llmapi.wire.bounds import Bounds

        try:
            listener = bind(options.host, options.port)
        except OSError as error:
            raise CommandError(
                f"Cannot listen on {options.host}:{options.port}: {error.strerror}. "
                "Choose others with --host and --port, or LLMAPI_HOST and LLMAPI_PORT."
            ) from error
        log_what_nobody_catches()
        self.host, self.allow_anonymous = options.host, options.allow_anonymous
        self.url = url_of(options.host, listener.getsockname()[1])

        self.prepare_database()
        adapters_restore(backends[0].adapters, options.model_aliases)
        registration = ProcessRegistration()
        registration.start()
        running.process_id = registration.process_id
        watched.registration = registration
        limiter.open(self.shared_limits(options.redis_url))
        connections.close_all()

        server = DoorServer(
            get_default_application(), listener, Bounds.of(options), options.shutdown_timeout_s
        )
        watched.connections = server.open
        server.take_ctrl_c()  # before there is a process to end
        try:
            models.start(backends, self.report, options.model_aliases)
        except BackendFailed as error:
            registration.stop()
            raise CommandError(str(error)) from error
        threading.Thread(target=self.announce, args=(server,), name="announce", daemon=True).start()
        try:
            server.run()
        finally:
            # What follows is short; a further signal ends it at once.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            is_loading = models.unavailable is not None
            models.stop()
            admission.close()
            database.close()
            disk.close()
            readiness.close()
            limiter.close()
            registration.stop()
        if self.failed:
            raise CommandError(self.failed)
        self.report("Stopped.")
        if is_loading:
            os._exit(0)  # Python would wait for the threads that import

    # ---- before ---------------------------------------------------------------------------------

    def prepare_database(self) -> None:
        """Migrate if needed; of several servers that start at once, one does."""
        try:
            with waiting_lock(Path(settings.VAR_DIR) / "migrate.lock"), database_lock():
                executor = MigrationExecutor(connection)
                if executor.migration_plan(executor.loader.graph.leaf_nodes()):
                    self.report("Preparing the database")
                    call_command("migrate", verbosity=0, interactive=False)
        except OperationalError as error:
            raise CommandError(f"The database does not answer (DATABASE_URL): {error}") from error
        except DatabaseError as error:
            raise CommandError(f"The database could not be prepared: {error}") from error

    def shared_limits(self, redis_url: str | None) -> SharedStore | None:
        """Where limits are counted for all processes together; None: each counts its own."""
        if redis_url is None:
            return None
        store = SharedStore(redis_url)
        try:
            store.ping()
        except RedisError as error:
            self.report(
                f"Redis does not answer (REDIS_URL): {error}. Until it does, limits hold for this "
                "process alone."
            )
        return store

    # ---- while the model loads ------------------------------------------------------------------

    failed: str | None = None

    def announce(self, server: Any) -> None:
        """Wait for the model; then say where it is, on the very first start with a key to try
        it."""
        from twisted.internet import reactor

        try:
            models.wait_ready()
            if running.draining:  # stopped while loading: nothing to announce
                return
            first = first_staff_create()
        except BackendFailed as error:
            if running.draining:  # stopped while loading: nothing failed
                return
            self.failed = str(error)
        except DatabaseError as error:
            self.failed = f"The database does not answer (DATABASE_URL): {error}"
        else:
            if first is not None:
                user, password, key = first
                self.stdout.write(first_start_text(self.url, user.username, password, key))
            served = ", ".join(card.id for card in models.cards() if card.alias_of is None)
            self.stdout.write(f"llmapi serves {served} at {self.url} (stop: Ctrl-C)")
            self.stdout.flush()
            self.warn()
            # What is loaded stays: the collector need not go through it again and again.
            gc.collect()
            gc.freeze()
            return
        finally:
            connections.close_all()
        reactor.callFromThread(server.stop)

    def warn(self) -> None:
        """Say what an operator would not expect of these settings."""
        if self.host not in LOOPBACK and set(settings.ALLOWED_HOSTS) <= set(LOOPBACK):
            self.report(
                f"Listening on {self.host}, but only requests to localhost are answered: name the "
                "addresses that others will use in ALLOWED_HOSTS, separated by commas."
            )
        if self.allow_anonymous:
            self.report("Requests without a key are answered (LLMAPI_ALLOW_ANONYMOUS).")

    def report(self, line: str) -> None:
        """Progress goes to stderr, as it comes."""
        if settings.LLMAPI.log_format == "json":
            logger.info(line)
            return
        self.stderr.write(f"llmapi: {line}", style_func=str)
        self.stderr.flush()


def flag_of(field: str) -> str:
    """The flag that sets this field of the settings."""
    flag: str = FLAGS[field].get("flag", f"--{field}")
    return flag


def options_with(flags: dict[str, Any]) -> Any:
    """The settings, with the given flags in place of variables. Raises CommandError."""
    # `is`, for 0 == False: `--port 0` asks for a free port.
    given = {
        name: flags[name]
        for name in FLAGS
        if flags.get(name) is not None and flags[name] is not False
    }
    try:
        return type(settings.LLMAPI)(**given)
    except ValidationError as error:
        problem = error.errors()[0]
        field, sentence = str(problem["loc"][0]), type(settings.LLMAPI).sentence_of(problem)
        if FLAGS[field].get("nargs"):
            sentence = sentence.replace("separated by commas", "separated by spaces")
        raise CommandError(f"{flag_of(field)} {sentence}.") from error


def url_of(host: str, port: int) -> str:
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "[::]") else host  # noqa: S104
    return f"http://[{shown}]:{port}" if ":" in shown.strip("[]") else f"http://{shown}:{port}"


def first_start_text(url: str, username: str, password: str, key: str) -> str:
    """What is printed once: who may sign in, the first key, and three commands that work now."""
    line = "-" * 78
    python = os.path.relpath(sys.executable)
    return f"""
{line}
This is the first start. The following is shown once; keep it.

  Admin pages   {url}/admin/   user {username}   password {password}
  API key       {key}

Try it:

curl {url}/v1/chat/completions \\
  -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
  -d '{{"messages": [{{"role": "user", "content": "What is the capital of China?"}}]}}'

curl {url}/v1/completions \\
  -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
  -d '{{"prompt": "Name three colours."}}'

curl {url}/v1/embeddings \\
  -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
  -d '{{"input": "The weather is fine today."}}'

More keys: {python} manage.py createkey USERNAME. Interactive documentation: {url}/docs/
{line}
"""


@contextmanager
def database_lock() -> Iterator[None]:
    """On PostgreSQL, a lock for servers on other machines too. It ends with the connection."""
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [MIGRATION_LOCK])
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [MIGRATION_LOCK])


def waiting_lock(path: Path, timeout_s: float = 120.0) -> LockFile:
    """The lock at `path`, waited for. Raises CommandError if it stays taken."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return LockFile(path)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise CommandError(
                    f"Another server has been migrating for {timeout_s:.0f} s ({path})."
                ) from None
            time.sleep(0.1)
