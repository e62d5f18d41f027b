"""The door with a real engine behind it: a tiny model, in a thread of the test process."""

from pathlib import Path

import pytest
from asgiref.sync import SyncToAsync
from django.contrib.auth.models import Permission
from django.db import connections

from accounts.models import User
from accounts.services import key_create
from conversations.processes.journal import journal
from llmapi.adapters import adapters_restore
from llmapi.backends.echo import EchoBackend
from llmapi.backends.link import launch_thread
from llmapi.backends.local import LocalBackend
from llmapi.engine.config import EngineConfig
from llmapi.executors import admission, database, disk, readiness
from llmapi.running import running
from llmapi.services import models
from tests.door.client import Client
from tests.door.standin import StandIn, backend_on
from tests.door.world import World
from tests.engine import tiny


def backend_for(directory: Path, cache: Path, shared: str, **config: object) -> LocalBackend:
    values = {"max_batch": 16, "kv_cache_tokens": 16384, "device": "cpu", "threads": 1, **config}
    return LocalBackend(
        EngineConfig(base_model=str(directory), cache_dir=str(cache), **values),
        shared_system_prompts=[shared],
        launch=launch_thread,
    )


@pytest.fixture(scope="session")
def reciter_directory(tmp_path_factory):
    """A model that answers every chat with `tiny.RECITAL`."""
    return tiny.write_reciter(tmp_path_factory.mktemp("reciter"))


@pytest.fixture(scope="session")
def random_directory(tmp_path_factory):
    """A model that writes nonsense, and never ends by itself when it is greedy."""
    return tiny.write_random(tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="session")
def shared_system_prompt():
    """What the operator of both models lets users share; with an editor's newline at its end."""
    return "You are a helpful assistant of this house, and you answer in verse.\n"


@pytest.fixture(scope="session")
def backends(reciter_directory, random_directory, shared_system_prompt, tmp_path_factory):
    """Both models, loaded once."""
    cache = tmp_path_factory.mktemp("models")
    both = [
        backend_for(reciter_directory, cache, shared_system_prompt, served_name="reciter"),
        backend_for(random_directory, cache, shared_system_prompt, served_name="random"),
    ]
    for backend in both:  # one after the other: transformers' loading knows no other thread
        backend.start(lambda line: None)
        backend.wait_ready(120)
    yield both
    for backend in both:
        backend.stop()


@pytest.fixture
def served(backends, transactional_db):
    """The models behind the door, and an empty database."""
    models._backends = list(backends)
    running.reset()
    yield models
    models._backends = []
    journal.close()  # whatever a slow machine has left in it is no other test's
    close_connections()


def close_connections():
    # The threads hold connections to the test database, which is emptied or dropped next.
    admission.close()
    database.close()
    disk.close()
    readiness.close()
    # So does the thread on which asgiref runs the tests' own queries.
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()


@pytest.fixture
def user(transactional_db):
    return User.objects.create_user("alice")


@pytest.fixture
def client(served, user) -> Client:
    _, key = key_create(user=user, name="test")
    return Client(key)


@pytest.fixture
def other_client(served) -> Client:
    _, key = key_create(user=User.objects.create_user("bob"), name="test")
    return Client(key)


@pytest.fixture
def engine(random_directory):
    """Stands in for an engine; asked for once it is started."""
    return StandIn(random_directory)


@pytest.fixture
def start(engine, transactional_db):
    """`start(adapters, aliases)`: what `serve` does, with `engine` and what staff have added."""

    def start(adapters=None, aliases=None, report=lambda line: None):
        backend = backend_on(engine, adapters)
        adapters_restore(backend.adapters, aliases or {})
        running.reset()
        models.start([backend], report, aliases)
        models.wait_ready(60)
        return backend

    yield start
    engine.may_load.set()
    models.stop()
    close_connections()


@pytest.fixture
def adapters_dir(tmp_path, settings):
    """LLMAPI_ADAPTERS_DIR, with the adapters `law` and `zh` in it."""
    directory = tmp_path / "adapters"
    for name in ("law", "zh"):
        (directory / name).mkdir(parents=True)
        (directory / name / "adapter_config.json").write_text("{}")
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"adapters_dir": directory})
    return directory


@pytest.fixture
def asker(user) -> Client:
    """A user's client, whatever is served."""
    return Client(key_create(user=user)[1])


@pytest.fixture
def staff(transactional_db) -> Client:
    """Who may do all with adapters, and nothing else."""
    boss = User.objects.create_user("boss", is_staff=True)
    boss.user_permissions.set(Permission.objects.filter(content_type__model="adapter"))
    return Client(key_create(user=boss)[1])


@pytest.fixture
def world(transactional_db):
    """The askers of the matrix, with the echo behind the door."""
    running.reset()
    models.start([EchoBackend()], lambda line: None)
    yield World()
    models.stop()
    close_connections()
