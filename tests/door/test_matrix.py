"""Every route of the server, and who may do what there (`matrix.py`): through the real door."""

import json
import re
import secrets
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.test import Client as Browser
from django.urls import get_resolver
from django.urls.resolvers import RoutePattern, URLResolver
from django.utils import timezone

from accounts.models import ApiKey, AuditEvent, Invitation, Scope, User
from accounts.services import key_create, key_revoke, playground_key_create
from config.asgi import application
from conversations.models import Completion, Conversation, Label, Message, ServerProcess
from llmapi.backends.echo import EchoBackend
from llmapi.models import Adapter
from llmapi.running import running
from llmapi.services import models
from tests.door.client import Answer, call
from tests.door.conftest import close_connections
from tests.door.matrix import CHAT, LINES, NO_SESSION, SESSIONS, Line

METHODS = ("get", "post", "put", "patch", "delete")
CSRF = "c" * 32


def routes_of(resolver: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(route, view) of everything that the URLconf holds."""
    for pattern in resolver.url_patterns:
        route = str(pattern.pattern)
        if not isinstance(pattern.pattern, RoutePattern):
            # The admin's two regular expressions, by the name of their group.
            route = re.sub(r"\^?\(\?P(<\w+>).*?\)(/?)\$", r"\1\2", route)
        if isinstance(pattern, URLResolver):
            yield from routes_of(pattern, prefix + route)
        else:
            yield prefix + route, pattern.callback


def test_every_route_and_method_has_a_line() -> None:
    known = {line.route for line in LINES}
    routes = dict(routes_of(get_resolver()))
    assert set(routes) - known == set(), "routes without a line in tests/door/matrix.py"
    assert known - set(routes) == set(), "lines about routes that there are not"
    answered = {
        (method.upper(), route)
        for route, view in routes.items()
        if route.startswith("v1/")
        for method in METHODS
        if hasattr(view.cls, method)
    }
    door = application.application_mapping["http"]
    answered |= {("POST", path.removeprefix("/")) for path in door.posts}
    lines = {(line.method, line.route) for line in LINES}
    assert answered - lines == set(), "methods without a line in tests/door/matrix.py"


class World:
    """The askers, and alice's objects."""

    def __init__(self) -> None:
        self.owner = User.objects.create_user("alice", password="correct horse")
        self.users = {
            "owner": self.owner,
            "another user": User.objects.create_user("bob", password="correct horse"),
            "staff without rights": User.objects.create_user("helper", is_staff=True),
            "superuser": User.objects.create_superuser("boss"),
        }
        gone = User.objects.create_user("gone")
        self.sessions = {name: self.session(user) for name, user in self.users.items()}
        self.sessions["session, no key"] = self.session(self.owner)
        self.sessions["session of a user not active"] = self.session(gone)
        self.sessions["owner, no CSRF token"] = self.sessions["owner"]
        self.keys = {name: key_create(user=user)[1] for name, user in self.users.items()}
        self.keys["key, no session"] = self.keys["owner"]
        self.keys["malformed key"] = "sk-123"
        self.keys["the playground's key"] = playground_key_create(self.owner)
        revoked, self.keys["revoked"] = key_create(user=self.owner)
        key_revoke(revoked)
        past = timezone.now() - timedelta(seconds=1)
        self.keys["expired"] = key_create(user=self.owner, expires_at=past)[1]
        self.keys["owner not active"] = key_create(user=gone)[1]
        User.objects.filter(pk=gone.pk).update(is_active=False)
        # One for embeddings, and, for those, one for the history.
        self.for_embeddings = key_create(user=self.owner, scopes=[Scope.EMBEDDINGS])[1]
        self.for_history = key_create(user=self.owner, scopes=[Scope.HISTORY])[1]
        self.found: dict[str, Any] = {}

    def session(self, user: User) -> str:
        browser = Browser()
        browser.force_login(user)
        return browser.cookies["sessionid"].value

    def key_of(self, asker: str, line: Line) -> str | None:
        if asker == "wrong scope":
            return self.for_history if line.route == "v1/embeddings" else self.for_embeddings
        return self.keys.get(asker)

    async def objects(self, line: Line) -> dict[str, Any]:
        if line.destroys or not self.found:
            answer = await ask("POST", "/v1/chat/completions", CHAT, key=self.keys["owner"])
            assert answer.status == 200, answer
            made = await sync_to_async(self.look_up)(answer.json()["id"])
            if line.destroys:
                return made
            self.found = made
        return self.found

    def look_up(self, chat_id: str) -> dict[str, Any]:
        chat = Completion.objects.get(public_id=chat_id)
        conversation = Conversation.objects.get(pk=chat.conversation_id)
        key, _ = key_create(user=self.owner, name="laptop")
        group = Group.objects.first() or Group.objects.create(name="people")
        invitation = Invitation.objects.first() or Invitation.objects.create(
            digest="d", created_by=self.owner, expires_at=timezone.now()
        )
        process = ServerProcess.objects.first() or ServerProcess.objects.create(
            uuid="12345678123456781234567812345678", host="host", pid=1
        )
        adapter = Adapter.objects.first() or Adapter.objects.create(
            name="b", path="b", added_by=self.users["superuser"]
        )
        return {
            "chat": chat_id,
            "chat_pk": chat.pk,
            "conversation": conversation.public_id,
            "conversation_pk": conversation.pk,
            "item": Message.objects.filter(conversation=conversation).latest("pk").public_id,
            "key": key.public_id,
            "token": secrets.token_hex(8),
            "key_pk": key.pk,
            "user_pk": self.owner.pk,
            "group_pk": group.pk,
            "invitation_pk": invitation.pk,
            "process_pk": process.pk,
            "adapter_pk": adapter.pk,
            "label_pk": Label.objects.get_or_create(name="odd")[0].pk,
            "event_pk": AuditEvent.objects.get_or_create(action="read", target="alice")[0].pk,
        }


def filled(template: Any, objects: dict[str, Any]) -> Any:
    """With the names of objects in it replaced by theirs."""
    if isinstance(template, str):
        return re.sub(r"\{(\w+)\}", lambda found: str(objects[found[1]]), template)
    if isinstance(template, dict):
        return {name: filled(value, objects) for name, value in template.items()}
    if isinstance(template, list):
        return [filled(value, objects) for value in template]
    return template


async def ask(
    method: str,
    path: str,
    body: Any = None,
    *,
    key: str | None = None,
    session: str | None = None,
    is_form: bool = False,
    csrf: bool = True,
) -> Answer:
    headers = {"accept": "text/html"} if is_form else {}
    cookies = [f"sessionid={session}"] if session else []
    if csrf and is_form:
        cookies.append(f"csrftoken={CSRF}")
        headers["x-csrftoken"] = CSRF
    if cookies:
        headers["cookie"] = "; ".join(cookies)
    kind = "application/x-www-form-urlencoded" if is_form else "application/json"
    data = b"" if body is None else (urlencode(body) if is_form else json.dumps(body)).encode()
    under_way = call(method, path, key, headers, content_type=kind)
    await under_way.send_body(data)
    return await under_way.answer()


@pytest.fixture
def world(transactional_db) -> Iterator[World]:
    running.reset()
    models.start([EchoBackend()], lambda line: None)
    yield World()
    models.stop()
    close_connections()


async def test_everybody_gets_what_the_matrix_says(world) -> None:
    wrong = []
    for line in LINES:
        # The owner comes last: what is there for them was there for the others too.
        for asker, expected in sorted(line.expected.items(), key=lambda item: item[0] == "owner"):
            objects = await world.objects(line)
            is_page = line.is_form or line.route.startswith("admin/")
            takes_session = is_page and not line.route.startswith("v1/")
            answer = await ask(
                line.method,
                "/" + filled(line.path, objects),
                filled(line.body, objects),
                key=None if takes_session and asker in SESSIONS else world.key_of(asker, line),
                session=world.sessions.get(asker)
                if takes_session or asker == "session, no key"
                else None,
                is_form=is_page,
                csrf=asker != "owner, no CSRF token",
            )
            if answer.status != expected:
                told = answer.body[:120].decode()
                wrong.append(f"{line.title} by {asker}: {answer.status}, not {expected}: {told}")
            elif not {"x-request-id", "openai-processing-ms"} <= answer.headers.keys():
                wrong.append(f"{line.title} by {asker} has no id: {answer.headers}")
            elif answer.status == 302 and asker in NO_SESSION and line.method == "GET":
                to_sign_in = ("/sign-in/", "/admin/")  # the admin sends on from there
                assert answer.headers["location"].startswith(to_sign_in), line.title
            elif answer.status >= 400 and line.route.startswith("v1/"):
                assert set(answer.error) == {"message", "type", "param", "code"}, line.title
    assert not wrong, "\n".join(wrong)


async def test_what_is_refused_names_nothing_of_the_owner(world) -> None:
    """404 is the same for what another user has and for what nobody has."""
    objects = await world.objects(LINES[0])
    other = world.keys["another user"]
    for path, name in (
        ("/v1/chat/completions/{}", objects["chat"]),
        ("/v1/conversations/{}", objects["conversation"]),
        ("/v1/conversations/{}/items", objects["conversation"]),
    ):
        invented = name[:-4] + "0000"
        answers = [await ask("GET", path.format(id_), key=other) for id_ in (name, invented)]
        bodies = [
            a.body.decode().replace(i, "ID") for a, i in zip(answers, (name, invented), strict=True)
        ]
        assert bodies[0] == bodies[1]
    assert await ApiKey.objects.filter(user=world.owner, name="laptop").aexists()
