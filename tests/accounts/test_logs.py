"""No secret is in the log, and nothing that a user said, whoever writes the line."""

import asyncio
import gc
import io
import json
import logging
import sys
import threading
import traceback

import pytest
from django.db import DataError, IntegrityError, connection, transaction
from django.test import Client
from django.utils.log import DEFAULT_LOGGING

from accounts import keys, links, logs
from accounts.errors import ApiError
from accounts.logs import JsonFormatter, without_secrets
from accounts.models import User
from accounts.tracebacks import named, told, traceback_of
from config.settings import LOGGING
from llmapi.errors import ServerUnavailable, TemplateFailed
from tests.accounts.pages import HTML

pytestmark = pytest.mark.django_db

SAID = "What nobody else may read"
BODY = "sk-AbCdEfGh" + "0123456789abcdefghijklmnopqrstuv"
KEY = BODY + keys.checksum(BODY)
logger = logging.getLogger("accounts.tests")


@pytest.fixture
def handler():  # type: ignore[no-untyped-def]
    """That of the settings, which writes to memory instead of stderr."""
    (handler,) = (h for h in logging.getLogger().handlers if h.name == "stderr")
    before, formatter = handler.setStream(io.StringIO()), handler.formatter  # type: ignore[attr-defined]
    yield handler
    handler.setStream(before)  # type: ignore[attr-defined]
    handler.setFormatter(formatter)


@pytest.fixture
def written(handler):  # type: ignore[no-untyped-def]
    return lambda: handler.stream.getvalue()


@pytest.fixture
def objects(handler, written):  # type: ignore[no-untyped-def]
    """The lines that were written, with LLMAPI_LOG_FORMAT=json."""
    handler.setFormatter(JsonFormatter())
    return lambda: [json.loads(line) for line in written().splitlines()]


def paths() -> list[str]:
    _, invitation = links.invitation_create(created_by=User.objects.create_superuser("boss"))
    return [invitation, links.password_path(User.objects.create_user("carol"))]


def test_forms_without_their_cookie(written) -> None:
    for path in paths():
        assert Client(enforce_csrf_checks=True).post(path, **HTML).status_code == 403
        door, *tokens = path.strip("/").split("/")
        assert f"Forbidden (CSRF cookie not set.): /{door}/…" in written()
        for token in tokens:
            assert token not in written()


def test_pages_that_fail(written) -> None:
    for path in paths():
        try:
            raise RuntimeError(f"at {path}")
        except RuntimeError:
            logging.getLogger("django.request").exception("Internal Server Error: %s", path)
        door, *tokens = path.strip("/").split("/")
        assert written().count(f"/{door}/…") == 2
        for token in tokens:
            assert token not in written()


def test_other_paths_are_written_as_they_are(written) -> None:
    logging.getLogger("django.request").error("Error: %s", "/admin/accounts/user/3/password/")
    assert "/admin/accounts/user/3/password/\n" in written()


@pytest.mark.parametrize(
    ("secret", "line"),
    [
        (KEY, "no model {}"),
        (KEY, "GET '/v1/models/{}?x=1'"),
        ("q7Fh-29_x", "Authorization: Bearer {}"),
        ("s3cr3t:p@ss", "connecting to postgres://llmapi:{}@db.example.org/llmapi failed"),
        ("s3cr3t", "redis://:{}@127.0.0.1:6379/0"),
        ("s3cr3t", "host=db user=llmapi password={} dbname=x"),
        ("0cm3pl5kq", "cookie: x=z; sessionid={}; y=z"),
    ],
)
def test_what_looks_like_a_secret_is_cut_out(secret, line) -> None:
    cleaned = without_secrets(line.format(secret))
    assert secret not in cleaned
    assert secret[-4:] not in cleaned
    assert "…" in cleaned
    before, _, after = line.partition("{}")
    assert cleaned.startswith(before), "the rest stands"
    assert cleaned.endswith(after)


# ---- exceptions ---------------------------------------------------------------------------------


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        ValueError(f"invalid literal for int() with base 10: '{SAID}'"),
        KeyError(SAID),
        json.JSONDecodeError(SAID, SAID, 0),
        UnicodeEncodeError("ascii", SAID, 0, 1, SAID),
        ApiError(f"There is no model '{SAID}'.", code="model_not_found"),
        TemplateFailed(f"The template fails: no element '{SAID}'."),
        ExceptionGroup("several", [ValueError(SAID)]),
    ],
)
def test_words_that_may_be_a_users_are_in_no_traceback_and_no_message(error, written) -> None:
    try:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("the way out") from cause
    except RuntimeError:
        logger.exception("Something failed: %s", error)
    logger.error(error)
    assert SAID not in written()
    assert type(error).__name__ in written()
    assert "RuntimeError: the way out" in written()
    assert "test_words_that_may_be_a_users" in written(), "where it was"


def test_a_traceback_that_a_library_has_written_itself_is_written_anew(written) -> None:
    try:
        raise ValueError(SAID)
    except ValueError:
        logging.getLogger("daphne.http_protocol").error(traceback.format_exc())
    assert SAID not in written()
    assert "ValueError: (its words are not logged" in written()


def test_words_of_code_and_of_the_server_are_told() -> None:
    assert told(TypeError("unsupported operand")) == "unsupported operand"
    assert named(ServerUnavailable("The model is being loaded.")) == (
        "ServerUnavailable: The model is being loaded."
    )
    assert named(OSError(28, "No space left on device")).endswith("No space left on device")


def test_a_traceback_shows_what_led_to_what() -> None:
    def fails() -> None:
        try:
            raise KeyError(SAID)
        except KeyError:
            raise TypeError("then this") from None

    with pytest.raises(TypeError) as caught:
        fails()
    assert "KeyError" not in traceback_of(caught.value), "as it was asked for"
    inner = raised(KeyError(SAID))
    outer = TypeError("then this")
    outer.__context__ = inner
    inner.__context__ = outer  # a ring, as some libraries make
    trace = traceback_of(raised(outer))
    assert trace.index("KeyError") < trace.index("During handling") < trace.index("TypeError")


def test_the_database_names_what_it_refused_and_does_not_quote_it(written) -> None:
    User.objects.create_user(SAID)
    with pytest.raises(IntegrityError) as refused, transaction.atomic():
        User.objects.create_user(SAID)
    logger.error("Not saved: %s", refused.value, exc_info=refused.value)
    assert SAID not in written()
    assert "username" in written()
    if connection.vendor == "postgresql":
        assert SAID in str(refused.value), "or this test shows nothing"
        for sql, value in (
            ("SELECT %s::int", SAID),
            ("SELECT %s::jsonb", f'{{"a": "{SAID}'),
            ("SELECT %s::jsonb", f'{{"a": "{SAID} \\u0000"}}'),
        ):
            with (
                pytest.raises(DataError) as refused,
                transaction.atomic(),
                connection.cursor() as cursor,
            ):
                cursor.execute(sql, [value])
            assert SAID in str(refused.value), "or this test shows nothing"
            logger.error("Not saved: %s", refused.value, exc_info=refused.value)
        assert SAID not in written()
        assert "SQLSTATE 22P02" in written()


async def test_a_task_that_nobody_waited_for_is_told_without_its_words(written) -> None:
    async def fails() -> None:
        raise ValueError(SAID)

    task = asyncio.ensure_future(fails())
    await asyncio.wait([task])
    del task
    gc.collect()
    await asyncio.sleep(0)
    assert "Task exception was never retrieved" in written()
    assert "ValueError" in written()
    assert SAID not in written()


def test_what_nobody_catches_is_a_line_like_others(written, monkeypatch, objects) -> None:
    for module, name in ((sys, "excepthook"), (threading, "excepthook")):
        monkeypatch.setattr(module, name, getattr(module, name))
    logs.log_what_nobody_catches()
    logging.captureWarnings(False)

    def fail() -> None:
        raise ValueError(SAID)

    thread = threading.Thread(target=fail, name="worker")
    thread.start()
    thread.join()
    sys.excepthook(KeyError, raised(KeyError(SAID)), None)
    of_thread, of_main = objects()
    assert of_thread["message"] == "Nobody caught this in worker"
    assert "in fail\n" in of_thread["traceback"]
    assert of_main["level"] == "CRITICAL"
    assert SAID not in written()


def test_with_debug_too_django_writes_by_our_handler_alone() -> None:
    assert DEFAULT_LOGGING["loggers"]["django"]["handlers"], "what is replaced"
    assert LOGGING["loggers"]["django"]["handlers"] == []
    assert logging.getLogger("django").handlers == []


# ---- both formats -------------------------------------------------------------------------------


def test_a_line_of_json_has_what_machines_ask_for(objects) -> None:
    logs.request_id.set("req_1")
    logger.warning("Two\nlines of %s", "text", extra={"facts": {"status": 200, "route": "/é"}})
    try:
        raise RuntimeError("no memory")
    except RuntimeError:
        logger.exception("Failed")
    plain, failed = objects()
    assert plain.pop("time").endswith("+00:00")
    assert plain == {
        "level": "WARNING",
        "logger": "accounts.tests",
        "message": "Two\nlines of text",
        "request_id": "req_1",
        "status": 200,
        "route": "/é",
    }
    assert failed["traceback"].endswith("RuntimeError: no memory")


def test_a_secret_in_a_fact_is_cut_out_and_the_line_stays_json(objects) -> None:
    key = keys.new_key().text
    logger.error("of %s", key, extra={"facts": {"path": f"/v1/models/{key}", "n": {"b": key}}})
    (line,) = objects()
    assert key[11:] not in json.dumps(line)
    assert line["path"].endswith("…")


def test_a_line_of_text_names_the_request_that_is_worked_on(written) -> None:
    logs.request_id.set("req_2")
    logger.error("Failed")
    logger.error("Of another", extra={"request_id": "req_3"})
    assert "ERROR accounts.tests: req_2 Failed\n" in written()
    assert "ERROR accounts.tests: req_3 Of another\n" in written()
    logs.request_id.set("")
