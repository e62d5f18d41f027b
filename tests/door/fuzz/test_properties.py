"""What holds of every request, however odd: through the door, with a tiny model behind it."""

import json
import os
from typing import Any
from urllib.parse import quote, unquote

from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from conversations.models import Completion
from tests.door.bad.addresses import METHODS, MODELS
from tests.door.bad.fields import SERIALIZERS
from tests.door.bad.line import CHAT, COMPLETIONS, DOOR, HELLO
from tests.door.client import call
from tests.door.fuzz.answers import check_answer, joined, texts_of
from tests.door.fuzz.values import JUNK, TEXT, bodies, few_of, value_of
from tests.door.test_bad_input import boss, objects  # noqa: F401 (fixtures)

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")


def tried(times: int) -> Any:
    """So many examples in `make test`, the same each time; in `make fuzz` as many as it says."""
    return settings(
        max_examples=int(EXAMPLES or times),
        derandomize=EXAMPLES is None,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[*HealthCheck],
    )


BODIES = st.sampled_from(sorted(SERIALIZERS)).flatmap(
    lambda path: st.tuples(st.just(path), bodies(*SERIALIZERS[path]))
)


def as_route(path: str) -> str:
    """As the document writes it."""
    names = {"{chat}": "{completion_id}", "{conversation}": "{conversation_id}"}
    names |= {"{item}": "{item_id}", "/models/echo": "/models/{model}", "/zh": "/{name}"}
    for ours, theirs in names.items():
        path = path.replace(ours, theirs)
    return path


def filled(path: str, names: dict[str, str]) -> str:
    for name, public_id in names.items():
        path = path.replace(name, public_id)
    return path


async def none_runs() -> bool:
    return not await Completion.objects.filter(status=Completion.Status.RUNNING).aexists()


@tried(120)
@given(sent=BODIES, key=st.none() | st.uuids())
async def test_any_body_is_answered_as_the_document_says(boss, objects, sent, key) -> None:  # noqa: F811
    path, body = sent
    headers = {"idempotency-key": str(key)} if key else {}
    answer = await boss.post(filled(path, objects), body, headers=headers)
    event(f"{path} {answer.status}")
    check_answer("POST", as_route(path), answer, body)
    assert await none_runs()


@tried(60)
@given(sent=BODIES, data=st.data())
async def test_a_body_with_bytes_out_of_place_is_no_server_error(boss, objects, sent, data) -> None:  # noqa: F811
    path, body = sent
    raw = bytearray(json.dumps(body).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        raw[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    headers = data.draw(st.sampled_from([{}, {"content-type": "application/json; charset=utf-8"}]))
    answer = await boss.post(filled(path, objects), bytes(raw), headers=headers)
    assert answer.status < 500, answer.body
    assert await none_runs()


PARAMETERS = st.sampled_from(
    [
        *("limit", "after", "order", "status", "model", "metadata[a]", "include[]", "include"),
        *("start_time", "end_time", "bucket_width", "group_by", "models", "user_ids", "page", "x"),
    ]
)
NUMBERS = st.integers(-2, 200).map(str) | st.integers().map(str)
QUERIES = st.lists(
    st.tuples(PARAMETERS | TEXT, TEXT | NUMBERS | st.sampled_from(["asc", "1d", "1h", "model"])),
    max_size=4,
)


@tried(80)
@given(
    path=st.sampled_from([p for p, allowed in METHODS.items() if "GET" in allowed]), sent=QUERIES
)
async def test_any_query_is_answered_as_the_document_says(boss, objects, path, sent) -> None:  # noqa: F811
    if not path.startswith("/v1/"):
        return
    query = "&".join(f"{quote(name)}={quote(value)}" for name, value in sent)
    answer = await boss.get(f"{filled(path, objects).replace('/echo', '/random')}?{query}")
    check_answer("GET", as_route(path), answer)


@tried(60)
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "HEAD", "OPTIONS"]) | st.text(max_size=8),
    path=st.lists(TEXT | st.sampled_from(["v1", "models", "chat", "completions", "..", "items"])),
)
async def test_any_address_is_answered(boss, method, path) -> None:  # noqa: F811
    address = unquote(quote("/" + "/".join(path)))
    if "?" in address or not method.isascii():
        return
    under_way = call(method or "GET", address, boss.key)
    await under_way.send_body(b"")
    answer = await under_way.answer()
    assert answer.status < 500, answer.body


HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *("accept", "accept-language", "accept-encoding", "content-type", "content-encoding"),
            *("content-length", "cookie", "host", "origin", "referer", "range", "expect", "te"),
            *("x-forwarded-for", "x-forwarded-proto", "x-csrftoken", "authorization"),
            *("if-modified-since", "if-none-match", "idempotency-key"),
        ]
    ),
    st.text(st.characters(max_codepoint=255, exclude_characters="\0\r\n"), max_size=40)
    | st.sampled_from(
        [
            *("application/json; charset*=x'y'z", "multipart/form-data; boundary=\xff", "-1"),
            *("application/x-www-form-urlencoded; charset=undefined", 'sessionid="\\000"'),
            *("en;q=nan", "bytes=9-"),
        ]
    ),
    max_size=3,
)


@tried(80)
@given(
    asked=st.sampled_from([("POST", CHAT), ("GET", MODELS), ("GET", "/"), ("POST", "/sign-in/")]),
    headers=HEADERS,
)
async def test_any_header_is_answered(boss, asked, headers) -> None:  # noqa: F811
    method, path = asked
    under_way = call(method, path, boss.key, {})
    names = {name.encode() for name in headers}
    kept = [pair for pair in under_way.scope["headers"] if pair[0] not in names]
    sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    under_way.scope["headers"][:] = kept + sent
    await under_way.send_body(json.dumps({"messages": HELLO, "max_tokens": 1}).encode())
    answer = await under_way.answer()
    assert answer.status < 500, answer.body
    assert await none_runs()


def greedy(path: str) -> Any:
    """Requests that have one answer alone."""
    serializer, body = SERIALIZERS[path]
    names = ["max_tokens", "n", "stop", "stop_token_ids", "min_tokens", "logit_bias", "ignore_eos"]
    names += ["repetition_penalty", "frequency_penalty", "presence_penalty", "num_beams"]
    names += ["messages"] if path == CHAT else ["prompt", "echo"]
    fields = serializer().fields
    options = {name: value_of(fields[name]) for name in names}
    fixed = {**body, "temperature": 0, "max_tokens": 8, "model": "random"}
    return few_of(options, {}).map(lambda chosen: (path, fixed | chosen))


@tried(40)
@given(asked=st.sampled_from([CHAT, COMPLETIONS]).flatmap(greedy))
async def test_a_stream_says_the_same_as_a_whole_answer(client, asked) -> None:
    path, body = asked
    answer = await client.post(path, body)
    event(f"{path} {answer.status}")
    check_answer("POST", path, answer, body)
    if answer.status != 200:
        streamed = await client.post(path, {**body, "stream": True})
        assert (streamed.status, streamed.error) == (answer.status, answer.error)
        return
    whole = answer.json()
    options = {"stream_options": {"include_usage": True}}
    events = await client.events(path, {**body, **options})
    (usage,) = [e["usage"] for e in events[:-1] if e["usage"]]
    texts, reasons = joined(events)
    answers = whole["choices"][-len(texts) :]
    assert texts == texts_of({"choices": answers})
    assert reasons == [choice["finish_reason"] for choice in answers]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert usage[name] == whole["usage"][name]
    assert await none_runs()


@tried(30)
@given(junk=JUNK)
async def test_any_json_at_all_is_no_server_error_on_the_door(client, junk) -> None:
    for path in DOOR:
        answer = await client.post(path, junk)
        assert 400 <= answer.status < 500, answer.body


def test_every_field_has_a_strategy() -> None:
    for serializer, _ in SERIALIZERS.values():
        for field in serializer().fields.values():
            value_of(field)
