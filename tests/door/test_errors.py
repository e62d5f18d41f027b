"""What errors say, and how they are told. Which mistakes there are: `test_bad_input.py`."""

from dataclasses import replace

import pytest

from llmapi import payloads

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HELLO = [{"role": "user", "content": "Hello"}]


def chat(**parameters):
    return {"messages": HELLO, **parameters}


def message(**keys):
    return {"messages": [HELLO[0], {"role": "user", **keys}]}


SENTENCES = [
    # route, body, message
    (CHAT, {}, "'messages' is required."),
    (CHAT, {"messages": None}, "'messages' may not be null."),
    (CHAT, {"messages": []}, "'messages' must hold at least one message."),
    (CHAT, {"messages": "Hello"}, "'messages' must be an array, not a string."),
    (CHAT, {"messages": ["Hello"]}, "'messages[0]' must be an object, not a string."),
    (CHAT, [], "The request body must be an object, not an array."),
    (CHAT, chat(temperature=3), "'temperature' must be at most 2."),
    (CHAT, chat(temperature="hot"), "'temperature' must be a number, not a string."),
    (CHAT, chat(max_tokens=0), "'max_tokens' must be at least 1."),
    (CHAT, chat(n=200), "'n' must be at most 128."),
    (CHAT, chat(stop=["a"] * 5), "'stop' may hold 4 strings at most (it has 5)."),
    (CHAT, chat(stop=["a", ""]), "'stop[1]' may not be empty."),
    (EMBEDDINGS, {"input": ""}, "'input' may not be empty."),
    (CHAT, message(), "'messages[1].content' is required."),
    (
        CHAT,
        message(content="a", message="b"),
        "'messages[1].message' may not stand beside 'content': send one of the two.",
    ),
    (
        CHAT,
        message(content="a", contents="b"),
        "Unknown parameter: 'messages[1].contents'. Did you mean 'content'?",
    ),
    (
        CHAT,
        message(content="a", tool_calls=[{}]),
        "'messages[1].tool_calls' is not supported by this server; "
        "leave it out (or send null or []).",
    ),
    (
        CHAT,
        chat(logit_bias={"five": 1}),
        "'logit_bias': 'five' is not a token id: write it as digits, as in {\"42\": -100}.",
    ),
    (
        CHAT,
        chat(stop_token_ids=[400]),
        "'stop_token_ids': Token id 400 is not in the vocabulary (0 to 399).",
    ),
    (CHAT, {"prompt": "Hi"}, "Unknown parameter: 'prompt'. /v1/completions takes it."),
    (CHAT, {"input": "Hi"}, "Unknown parameter: 'input'. /v1/embeddings takes it."),
    (
        COMPLETIONS,
        {"messages": HELLO},
        "Unknown parameter: 'messages'. /v1/chat/completions takes it.",
    ),
    (EMBEDDINGS, {"prompt": "Hi"}, "Unknown parameter: 'prompt'. /v1/completions takes it."),
    (
        CHAT,
        {"messages": [*HELLO, {"role": "tool", "tool_call_id": "call_1", "content": "5"}]},
        "'messages[1].role': Messages of role 'tool' are not supported by this server.",
    ),
    (
        CHAT,
        chat(store=False, conversation="conv_x"),
        "'store' may not be false with 'conversation', to which the answer is added.",
    ),
    (
        CHAT,
        chat(metadata={"run": 5}),
        "'metadata.run' must be a string, not an integer.",
    ),
]


async def test_a_message_names_its_field_and_is_a_sentence(client):
    """Of an error the SDKs show the message alone."""
    for route, body, expected in SENTENCES:
        answer = await client.post(route, body)
        assert answer.error["message"] == expected


async def test_an_accept_header_does_not_matter(client):
    for accept in ("text/event-stream", "text/html", "*/*", "nonsense"):
        answer = await client.post(CHAT, chat(max_tokens=1), headers={"accept": accept})
        assert answer.status == 200
        answer = await client.get("/v1/models", headers={"accept": accept})
        assert answer.status == 200


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/v1/embedding", "/v1/embeddings"),
        ("/api/v1/Models", "/v1/models"),
        ("/statistics", None),
        ("/api/generate", None),
        ("/v1/responsive", None),
        ("/v1/", None),
    ],
)
async def test_only_a_route_with_nearly_the_same_name_is_offered(client, path, meant):
    answer = await client.post(path, {})
    assert answer.status == 404
    hint = f" Did you mean {meant}?" if meant else ""
    expected = f"There is no {path} here.{hint} See /docs/ for the routes."
    assert answer.error["message"] == expected


async def test_of_well_known_routes_that_are_not_here_it_is_said_what_is(client):
    for path, named in (
        ("/v1/responses", "/v1/responses"),
        ("/v1/responses/resp_123", "/v1/responses"),
        ("/v1/audio/speech", "/v1/audio"),
        ("/v1/fine_tuning/jobs", "/v1/fine_tuning"),
        ("/v1/messages", "/v1/messages"),
    ):
        for answer in (await client.post(path, {}), await client.get(path)):
            assert (answer.status, answer.error["code"]) == (404, "unknown_route")
            assert answer.error["message"].startswith(f"This server does not have {named}; it has ")
            assert "/v1/chat/completions, /v1/completions, " in answer.error["message"]


async def test_a_browser_that_asks_for_an_icon_meets_no_error(client):
    answer = await client.get("/favicon.ico")
    assert (answer.status, answer.body) == (204, b"")


async def test_an_unknown_host_name_is_refused_in_the_envelope(client):
    for answer in (
        await client.post(CHAT, chat(), headers={"host": "evil.example"}),
        await client.get("/v1/models", headers={"host": "evil.example"}),
    ):
        assert answer.status == 400
        assert answer.error["code"] == "host_not_allowed"


async def test_a_nearest_name_is_offered(client):
    answer = await client.post(CHAT, chat(temprature=1))
    assert "Did you mean 'temperature'?" in answer.error["message"]


@pytest.mark.parametrize(
    ("limits", "parameters", "says"),
    [
        ({"max_batch": 3}, {"num_beams": 4}, "'num_beams' is 4"),
        ({"kv_cache_tokens": 512}, {"num_beams": 4, "max_tokens": 300}, "needs room for"),
    ],
)
async def test_beams_that_can_never_fit_are_refused_before_anything_is_done(
    client, backends, monkeypatch, limits, parameters, says
):
    backend, preparation = backends[1], backends[1]._preparation
    limited = replace(preparation, info=replace(preparation.info, **limits))
    monkeypatch.setattr(backend, "_preparation", limited)
    answer = await client.post(CHAT, chat(model="random", **parameters))
    assert (answer.status, answer.error["param"]) == (400, "num_beams")
    assert says in answer.error["message"]


async def test_a_bug_of_ours_is_a_json_500_that_tells_nothing(client, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("the secret of the house")

    monkeypatch.setattr(payloads, "chat_completion", broken)
    answer = await client.post(CHAT, chat(max_tokens=1))
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert b"secret" not in answer.body


async def test_the_ends_of_every_bound_are_answered(client):
    """What the door lets in, the engine can do."""
    for parameters in (
        {"top_p": 0},
        {"top_p": 0, "num_beams": 2},
        {"repetition_penalty": 0.01},
        {"repetition_penalty": 10},
        {"temperature": 2},
        {"temperature": 0.0001},
        {"top_k": 1_000_000},
        {"top_k": 1},
        {"num_beams": 16},
        {"n": 128},
        {"seed": -(2**63)},
        {"seed": 2**63 - 1},
        {"max_tokens": 2**31 - 1, "stop": ["a"]},
    ):
        body = {**chat(model="random", max_tokens=2), **parameters}
        answer = await client.post(CHAT, body)
        assert answer.status == 200, (parameters, answer.body)
