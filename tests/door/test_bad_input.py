"""Every mistake is a 4xx in OpenAI's envelope that names the field (`bad/`); never a 5xx."""

import json
from urllib.parse import unquote

import pytest
from asgiref.sync import sync_to_async
from django.urls import get_resolver

from accounts.models import User
from accounts.services import key_create
from conversations.models import Completion, Conversation, Message
from tests.door.bad import addresses, bodies, fields
from tests.door.bad.line import CHAT, HELLO, POSTS, Bad
from tests.door.client import Answer, Client, call
from tests.door.routes import routes_of

GOOD = {"messages": HELLO, "max_tokens": 2}
TABLES = {"fields": fields.LINES, "bodies": bodies.LINES, "addresses": addresses.LINES}


@pytest.fixture
def boss(served, adapters_dir) -> Client:
    """Who may do all that the API has, so that nothing is refused for another reason."""
    user = User.objects.create_superuser("boss")
    return Client(key_create(user=user)[1])


@pytest.fixture
async def objects(boss) -> dict[str, str]:
    """The asker's own, for paths."""
    said = await boss.chat(max_tokens=2)
    conversation = said["conversation"]["id"]
    items = await boss.get(f"/v1/conversations/{conversation}/items")
    return {
        "{chat}": said["id"],
        "{conversation}": conversation,
        "{item}": items.json()["data"][0]["id"],
    }


async def ask(client: Client, line: Bad, objects: dict[str, str]) -> Answer:
    path = line.path
    for name, public_id in objects.items():
        path = path.replace(name, public_id)
    address, _, query = path.partition("?")  # and the address unquoted, as daphne hands it on
    under_way = call(line.method, f"{unquote(address)}?{query}", client.key, line.headers)
    data = line.body if isinstance(line.body, bytes) else json.dumps(line.body).encode()
    await under_way.send_body(*(data[i : i + 8192] for i in range(0, len(data) or 1, 8192)))
    return await under_way.answer()


def what_is_wrong(line: Bad, answer: Answer) -> str | None:
    """None if this is the answer that the line names."""
    if answer.status != line.status:
        return f"{answer.status}, not {line.status}: {answer.body[:300]!r}"
    if not answer.headers["x-request-id"].startswith("req_"):
        return "no request id"
    if answer.headers["content-type"] != "application/json":
        return f"it is {answer.headers['content-type']}"
    if line.method == "HEAD":
        return None
    body = answer.json()
    if set(body) != {"error"} or set(body["error"]) != {"message", "type", "param", "code"}:
        return f"no envelope: {body}"
    error = body["error"]
    if (error["param"], error["code"]) != (line.param, line.code):
        return f"{error}, not ({line.param}, {line.code})"
    if error["type"] != "invalid_request_error":
        return f"type {error['type']}"
    if len(error["message"]) < 15 or len(error["message"]) > 1500:
        return f"a message of {len(error['message'])} characters"
    if line.says not in error["message"]:
        return f"it does not say '{line.says}': {error['message']}"
    names_it = line.status == 400 and line.param is not None
    if names_it and error["message"].count(f"'{line.param}'") != 1:
        return f"it does not name '{line.param}': {error['message']}"
    return None


@pytest.mark.parametrize("lines", TABLES.values(), ids=TABLES)
async def test_every_mistake_is_told_as_the_table_says(boss, objects, lines) -> None:
    """One test for many lines: each costs a request, not a database."""
    stored = await counts()
    problems = [(line, what_is_wrong(line, await ask(boss, line, objects))) for line in lines]
    wrong = [f"{line}\n    {problem}" for line, problem in problems if problem]
    assert not wrong, f"{len(wrong)} of {len(lines)}:\n" + "\n".join(wrong[:40])
    assert await counts() == stored, "a mistake left something behind"
    assert not await Completion.objects.filter(status=Completion.Status.RUNNING).aexists()
    assert (await boss.post(CHAT, GOOD)).status == 200


async def counts() -> list[int]:
    return [await model.objects.acount() for model in (Completion, Conversation, Message)]


def test_no_route_that_takes_a_body_is_forgotten() -> None:
    routes = {"/" + route for route, view in routes_of(get_resolver()) if is_api_with(view, "post")}
    assert len(routes) == len(POSTS) == len(fields.SERIALIZERS)


def is_api_with(view, method: str) -> bool:
    return hasattr(view, "cls") and hasattr(view.cls, method)


async def test_a_wrong_method_is_told_the_right_ones(boss, objects) -> None:
    for line in addresses.WRONG_METHODS:
        answer = await ask(boss, line, objects)
        assert answer.headers["allow"] == addresses.METHODS[line.path], line


async def test_every_route_answers_options_and_head(boss, objects) -> None:
    for path, allowed in addresses.METHODS.items():
        answer = await ask(boss, Bad("OPTIONS", path, 200, None, None), objects)
        assert (answer.status, answer.headers["allow"]) == (200, allowed), path
        if "HEAD" in allowed and path != addresses.ONE_MODEL:
            head = await ask(boss, Bad("HEAD", path, 200, None, None), objects)
            whole = await ask(boss, Bad("GET", path, 200, None, None), objects)
            assert head.status == whole.status == 200, path
            assert head.headers["content-type"] == whole.headers["content-type"]


async def test_a_body_over_the_cap_is_refused_before_it_is_read(boss, objects, settings) -> None:
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"max_body_bytes": 20_000})
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 20_000
    for line in bodies.OVER_THE_CAP:
        assert what_is_wrong(line, await ask(boss, line, objects)) is None, line


async def test_content_types_that_are_odd_and_harmless_are_taken(boss, objects) -> None:
    for line in bodies.HARMLESS:
        under_way = call("POST", CHAT, boss.key, line.headers)
        await under_way.send_body(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
        answer = await under_way.answer()
        assert answer.status == 200, (line, answer.body)
    assert await sync_to_async(Completion.objects.filter(status="completed").count)() > 1
