"""No token of a link is in the log, whoever writes the line."""

import io
import logging

import pytest
from django.test import Client

from accounts import links
from accounts.models import User
from tests.accounts.pages import HTML

pytestmark = pytest.mark.django_db


@pytest.fixture
def written():  # type: ignore[no-untyped-def]
    """What the handler of the settings writes, instead of to stderr."""
    (handler,) = (h for h in logging.getLogger().handlers if h.name == "stderr")
    out = io.StringIO()
    before = handler.setStream(out)  # type: ignore[attr-defined]
    yield out.getvalue
    handler.setStream(before)  # type: ignore[attr-defined]


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
