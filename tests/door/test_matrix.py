"""Every route of the server, and who may do what there (`matrix.py`): through the real door."""

from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.contrib.sessions.models import Session
from django.urls import get_resolver

from accounts.models import ApiKey, Attempt, Scope
from config.asgi import application
from llmapi.history.chats import StoredChatView
from tests.door.askers import NO_SESSION, READERS, SECRET
from tests.door.headers import lacking
from tests.door.matrix import LINES
from tests.door.routes import METHODS, routes_of, without_a_line
from tests.door.world import ask

DOOR = {path.removeprefix("/") for path in application.application_mapping["http"].posts}


def test_every_route_and_method_has_a_line() -> None:
    routes, door = dict(routes_of(get_resolver())), application.application_mapping["http"]
    assert without_a_line(routes, door.posts, LINES) == [], "not in tests/door/matrix.py"
    assert {line.route for line in LINES} - {*routes} == set(), "lines about no route"


def test_what_has_no_line_is_found() -> None:
    class WithPut(StoredChatView):
        def put(self) -> None: ...

    one_chat = "v1/chat/completions/<str:completion_id>"
    new = {"new/": None, "v1/new": StoredChatView.as_view(), one_chat: WithPut.as_view()}
    routes = dict(routes_of(get_resolver())) | new
    assert without_a_line(routes, ["/v1/responses", "/v1/completions"], LINES) == [
        *("new/", "v1/new"),
        *("DELETE v1/new", "GET v1/new", "POST v1/new", "POST v1/responses"),
        f"PUT {one_chat}",
    ]


async def test_everybody_gets_what_the_matrix_says(world) -> None:
    wrong = []
    for line in LINES:
        # The owner comes last: what is there for them was there for the others too.
        for asker, expected in sorted(line.expected.items(), key=lambda item: item[0] == "owner"):
            answer = await world.ask(line, asker)
            if lacks := lacking(answer, is_door=line.method == "POST" and line.route in DOOR):
                wrong.append(f"{line.title} by {asker} lacks {', '.join(lacks)}")
            if answer.status != expected:
                told = answer.body[:120].decode()
                wrong.append(f"{line.title} by {asker}: {answer.status}, not {expected}: {told}")
            elif answer.status == 302 and asker in NO_SESSION and line.method == "GET":
                to_sign_in = ("/sign-in/", "/admin/", "/password/")  # these send on from there
                assert answer.headers["location"].startswith(to_sign_in), line.title
            elif answer.status >= 400 and line.takes_key:
                assert set(answer.error) == {"message", "type", "param", "code"}, line.title
                if answer.status == 401:
                    assert answer.headers["www-authenticate"] == "Bearer", line.title
                    assert answer.error["code"] == "invalid_api_key", line.title
                    assert str(world.keys.get(asker)) not in answer.body.decode(), line.title
            if SECRET in answer.body.decode() and asker not in READERS:
                wrong.append(f"{line.title} by {asker}: shows what alice has said")
    assert not wrong, "\n".join(wrong)


async def test_what_is_refused_names_nothing_of_the_owner(world) -> None:
    """404 is the same for what another user has and for what nobody has."""
    objects = await world.objects(LINES[0])
    other = world.keys["another user"]
    for path, name in (
        ("/v1/chat/completions/{}", objects["chat"]),
        ("/v1/chat/completions?after={}", objects["chat"]),
        ("/v1/conversations/{}", objects["conversation"]),
        ("/v1/conversations/{}/items", objects["conversation"]),
        (f"/v1/conversations/{objects['bobs_conversation']}/items/{{}}", objects["item"]),
        ("/v1/usage?api_key_ids={}", objects["key"]),
    ):
        invented = name[:-4] + "0000"
        answers = [await ask("GET", path.format(id_), key=other) for id_ in (name, invented)]
        assert [answer.status for answer in answers] == [404, 404], path
        bodies = [
            a.body.decode().replace(i, "ID") for a, i in zip(answers, (name, invented), strict=True)
        ]
        assert bodies[0] == bodies[1]
    assert await ApiKey.objects.filter(user=world.owner, name="laptop").aexists()


async def test_each_scope_opens_its_routes_and_no_others(world) -> None:
    wrong = []
    for line in LINES:
        if not line.takes_key:
            continue
        # What staff may do no user may, whatever the key is for.
        asker = "superuser" if line.scope is Scope.ADMIN else "owner"
        for scope in Scope:
            reads = scope is Scope.READ_ONLY and line.method == "GET"
            is_open = line.scope in (None, scope) or reads
            answer = await world.ask(line, asker, scope=scope)
            refused = answer.status == 403 and "may not be used for this" in answer.error["message"]
            if refused is is_open or (is_open and answer.status != line.expected[asker]):
                told = f"{answer.status}, {answer.body[:90]!r}"
                wrong.append(f"{line.title} by {asker} with {scope}: {told}")
    assert not wrong, "\n".join(wrong)


async def test_methods_without_a_line_change_nothing(world) -> None:
    """Of the API they are refused. A page may answer them as if it were read."""
    told = {(line.method, line.route) for line in LINES}
    wrong = []
    await world.objects(LINES[0])
    before = await sync_to_async(everything_stored)()
    for route, line in {line.route: line for line in LINES if not line.destroys}.items():
        is_api = line.takes_key
        askers = ("staff without rights",) if route.startswith("admin/") else ("owner", "nobody")
        for method in METHODS if is_api else ("post", "delete"):
            if (method.upper(), route) in told:
                continue
            for asker in askers:
                status = (await world.ask(line, asker, method=method.upper())).status
                is_refused = status == 401 if asker == "nobody" else status in (403, 405)
                is_shown = status == 200 and asker == "nobody" and line.expected["nobody"] != 200
                if (is_api and not is_refused) or is_shown:
                    wrong.append(f"{method.upper()} {line.path} by {asker}: {status}")
    assert not wrong, "\n".join(wrong)
    after = await sync_to_async(everything_stored)()
    assert {name for name, rows in before.items() if after[name] != rows} == set()


def everything_stored() -> dict[str, list[Any]]:
    """All rows of all tables, but for what every request may note."""
    rows = {}
    for model in apps.get_models(include_auto_created=True):
        if model in (Session, Attempt):
            continue
        columns = [f.attname for f in model._meta.concrete_fields if f.name != "last_used_at"]
        rows[model._meta.label] = list(model._default_manager.order_by("pk").values_list(*columns))
    return rows
