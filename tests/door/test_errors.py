"""Every mistake is a 4xx in OpenAI's envelope that names the field; never a 5xx."""

import json
from dataclasses import replace

import pytest

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HELLO = [{"role": "user", "content": "Hello"}]


def chat(**parameters):
    return {"messages": HELLO, **parameters}


def message(**keys):
    return {"messages": [HELLO[0], {"role": "user", **keys}]}


BAD_BODIES = [
    # route, body, param, code
    (CHAT, {}, "messages", None),
    (CHAT, {"messages": []}, "messages", None),
    (CHAT, {"messages": "Hello"}, "messages", None),
    (CHAT, {"messages": None}, "messages", None),
    (CHAT, {"messages": ["Hello"]}, "messages[0]", None),
    (CHAT, {"messages": [{}]}, "messages[0].role", None),
    (CHAT, message(), "messages[1].content", None),
    (CHAT, message(content=5), "messages[1].content", None),
    (CHAT, message(content=[]), "messages[1].content", None),
    (CHAT, message(content=["Hi"]), "messages[1].content[0]", None),
    (CHAT, message(content=[{"type": "image_url"}]), "messages[1].content[0]", None),
    (CHAT, message(content=[{"type": "text"}]), "messages[1].content[0]", None),
    (
        CHAT,
        message(content=[{"type": "text", "text": "a", "b": 1}]),
        "messages[1].content[0]",
        None,
    ),
    (CHAT, message(content="a\0b"), "messages[1].content", None),
    (CHAT, message(content="Hi", colour="red"), "messages[1].colour", "unknown_parameter"),
    (
        CHAT,
        message(content="Hi", tool_calls=[{}]),
        "messages[1].tool_calls",
        "unsupported_parameter",
    ),
    (CHAT, {"messages": [{"role": "king", "content": "Hi"}]}, "messages[0].role", None),
    (
        CHAT,
        {"messages": [{"role": "tool", "content": "Hi"}]},
        "messages[0].role",
        "unsupported_parameter",
    ),
    (CHAT, chat(model="gpt-4"), "model", "model_not_found"),
    (CHAT, chat(model=5), "model", None),
    (CHAT, chat(max_tokens=0), "max_tokens", None),
    (CHAT, chat(max_tokens=-1), "max_tokens", None),
    (CHAT, chat(max_tokens="3"), "max_tokens", None),
    (CHAT, chat(max_tokens=3.0), "max_tokens", None),
    (CHAT, chat(max_tokens=True), "max_tokens", None),
    (CHAT, chat(max_tokens=2**63), "max_tokens", None),
    (CHAT, chat(max_tokens=10**399), "max_tokens", None),
    (CHAT, chat(max_tokens=5, max_completion_tokens=5), "max_tokens", None),
    (CHAT, chat(temperature=2.1), "temperature", None),
    (CHAT, chat(temperature=-0.1), "temperature", None),
    (CHAT, chat(temperature="hot"), "temperature", None),
    (CHAT, chat(temperature=True), "temperature", None),
    (CHAT, chat(top_p=1.5), "top_p", None),
    (CHAT, chat(top_k=-1), "top_k", None),
    (CHAT, chat(repetition_penalty=0), "repetition_penalty", None),
    (CHAT, chat(repetition_penalty=0.00001), "repetition_penalty", None),
    (CHAT, {"messages": [{}] * 1_000_000}, "messages", None),
    (CHAT, message(content=[{"type": "text", "text": "a"}] * 257), "messages[1].content", None),
    (CHAT, chat(n=0), "n", None),
    (CHAT, chat(n=129), "n", None),
    (CHAT, chat(n=False), "n", None),
    (CHAT, chat(num_beams=0), "num_beams", None),
    (CHAT, chat(num_beams=10**6), "num_beams", None),
    (CHAT, chat(num_beams=2, n=3), "n", None),
    (CHAT, chat(seed=2**63), "seed", None),
    (CHAT, chat(seed=1.5), "seed", None),
    (CHAT, chat(stop=""), "stop[0]", None),
    (CHAT, chat(stop=["a", ""]), "stop[1]", None),
    (CHAT, chat(stop=["a"] * 5), "stop", None),
    (CHAT, chat(stop=["a"] * 5000), "stop", None),
    (CHAT, chat(stop=5), "stop", None),
    (CHAT, chat(stop=[5]), "stop[0]", None),
    (CHAT, chat(stream="yes"), "stream", None),
    (CHAT, chat(stream=1), "stream", None),
    (CHAT, chat(stream_options={"include_usage": True}), "stream_options", None),
    (CHAT, chat(stream=True, stream_options=[]), "stream_options", None),
    (
        CHAT,
        chat(stream=True, stream_options={"include_tea": True}),
        "stream_options.include_tea",
        "unknown_parameter",
    ),
    (CHAT, chat(do_sample="on"), "do_sample", None),
    (CHAT, chat(user=5), "user", None),
    (CHAT, chat(temprature=1), "temprature", "unknown_parameter"),
    (CHAT, chat(prompt="Hello"), "prompt", "unknown_parameter"),
    (CHAT, chat(frequency_penalty=2.1), "frequency_penalty", None),
    (CHAT, chat(frequency_penalty="0.5"), "frequency_penalty", None),
    (CHAT, chat(presence_penalty=-2.1), "presence_penalty", None),
    (CHAT, chat(presence_penalty=False), "presence_penalty", None),
    (CHAT, chat(min_p=1.1), "min_p", None),
    (CHAT, chat(logit_bias=[]), "logit_bias", None),
    (CHAT, chat(logit_bias={"5": 101}), "logit_bias", None),
    (CHAT, chat(logit_bias={"5": "1"}), "logit_bias", None),
    (CHAT, chat(logit_bias={"5": True}), "logit_bias", None),
    (CHAT, chat(logit_bias={"five": 1}), "logit_bias", None),
    (CHAT, chat(logit_bias={"-5": 1}), "logit_bias", None),
    (CHAT, chat(logit_bias={"05": 1}), "logit_bias", None),
    (CHAT, chat(logit_bias={"400": 1}), "logit_bias", None),
    (CHAT, chat(logit_bias={str(i): 1 for i in range(4097)}), "logit_bias", None),
    (CHAT, chat(stop_token_ids=5), "stop_token_ids", None),
    (CHAT, chat(stop_token_ids=["5"]), "stop_token_ids", None),
    (CHAT, chat(stop_token_ids=[400]), "stop_token_ids", None),
    (CHAT, chat(stop_token_ids=[5] * 129), "stop_token_ids", None),
    (CHAT, chat(ignore_eos=1), "ignore_eos", None),
    (CHAT, chat(min_tokens=-1), "min_tokens", None),
    (CHAT, chat(min_tokens=6, max_tokens=5), "min_tokens", None),
    (CHAT, chat(min_tokens=6, max_completion_tokens=5), "min_tokens", None),
    (CHAT, chat(min_tokens=513), "min_tokens", None),
    (CHAT, chat(logprobs=1), "logprobs", None),
    (CHAT, chat(logprobs=True, top_logprobs=21), "top_logprobs", None),
    (CHAT, chat(top_logprobs=1), "top_logprobs", None),
    (CHAT, chat(logprobs=False, top_logprobs=1), "top_logprobs", None),
    (CHAT, chat(logprobs=True, num_beams=2), "logprobs", None),
    (CHAT, chat(best_of=2), "best_of", "unsupported_parameter"),
    (CHAT, chat(echo=True), "echo", "unknown_parameter"),
    (CHAT, chat(length_penalty=2), "length_penalty", None),
    (CHAT, chat(length_penalty=11, num_beams=2), "length_penalty", None),
    (CHAT, chat(early_stopping=True), "early_stopping", None),
    (CHAT, chat(early_stopping="always", num_beams=2), "early_stopping", None),
    (CHAT, chat(tools=[{"type": "function"}]), "tools", "unsupported_parameter"),
    (
        CHAT,
        chat(response_format={"type": "json_object"}),
        "response_format",
        "unsupported_parameter",
    ),
    (CHAT, chat(store="no"), "store", None),
    (CHAT, chat(store=False, conversation="conv_x"), "store", None),
    (CHAT, chat(conversation=5), "conversation", None),
    (CHAT, chat(conversation=""), "conversation", None),
    (CHAT, chat(conversation={}), "conversation", None),
    (CHAT, chat(conversation={"id": "conv_x", "at": 1}), "conversation", None),
    (CHAT, chat(metadata=[]), "metadata", None),
    (CHAT, chat(metadata={"k": 5}), "metadata.k", None),
    (CHAT, chat(metadata={"k": None}), "metadata.k", None),
    (CHAT, chat(metadata={"k": "x" * 513}), "metadata.k", None),
    (CHAT, chat(metadata={"k": "a\0b"}), "metadata.k", None),
    (CHAT, chat(metadata={"a\0b": "v"}), "metadata", None),
    (CHAT, chat(metadata={"": "v"}), "metadata", None),
    (CHAT, chat(metadata={"k" * 65: "v"}), "metadata", None),
    (CHAT, chat(metadata={f"k{i}": "v" for i in range(17)}), "metadata", None),
    (CHAT, [], None, None),
    (CHAT, "Hello", None, None),
    (CHAT, 5, None, None),
    (CHAT, None, None, None),
    (COMPLETIONS, {}, "prompt", None),
    (COMPLETIONS, {"prompt": ""}, "prompt", None),
    (COMPLETIONS, {"prompt": []}, "prompt", None),
    (COMPLETIONS, {"prompt": [""]}, "prompt[0]", None),
    (COMPLETIONS, {"prompt": [[]]}, "prompt[0]", None),
    (COMPLETIONS, {"prompt": ["a", 5]}, "prompt", None),
    (COMPLETIONS, {"prompt": [5, -1]}, "prompt", None),
    (COMPLETIONS, {"prompt": [5, 2**31]}, "prompt", None),
    (COMPLETIONS, {"prompt": [5, 100_000]}, "prompt", None),
    (COMPLETIONS, {"prompt": [True]}, "prompt", None),
    (COMPLETIONS, {"prompt": {"text": "a"}}, "prompt", None),
    (COMPLETIONS, {"prompt": ["a"] * 129}, "prompt", None),
    (COMPLETIONS, {"prompt": ["a"] * 64, "n": 3}, "n", None),
    (COMPLETIONS, {"prompt": "a", "template": "alpaca"}, "template", None),
    (COMPLETIONS, {"prompt": "a", "best_of": 2, "n": 3}, "best_of", None),
    (COMPLETIONS, {"prompt": "a", "best_of": 21}, "best_of", None),
    (COMPLETIONS, {"prompt": "a", "best_of": 2, "stream": True}, "best_of", None),
    (COMPLETIONS, {"prompt": "a", "best_of": 2, "num_beams": 2}, "best_of", None),
    (COMPLETIONS, {"prompt": ["a"] * 7, "best_of": 20}, "best_of", None),
    (COMPLETIONS, {"prompt": "a", "echo": "yes"}, "echo", None),
    (COMPLETIONS, {"prompt": "a", "echo": True, "template": "auto"}, "template", None),
    (COMPLETIONS, {"prompt": "a", "max_tokens": 0}, "max_tokens", None),
    (COMPLETIONS, {"prompt": "a", "max_tokens": 0, "echo": False}, "max_tokens", None),
    (COMPLETIONS, {"prompt": "a", "logprobs": 21}, "logprobs", None),
    (COMPLETIONS, {"prompt": "a", "logprobs": True}, "logprobs", None),
    (COMPLETIONS, {"prompt": "a", "logprobs": 0, "num_beams": 2}, "logprobs", None),
    (COMPLETIONS, {"prompt": "a", "suffix": "b"}, "suffix", "unsupported_parameter"),
    (COMPLETIONS, {"prompt": "a", "messages": HELLO}, "messages", "unknown_parameter"),
    (EMBEDDINGS, {}, "input", None),
    (EMBEDDINGS, {"input": ""}, "input", None),
    (EMBEDDINGS, {"input": ["a"] * 2049}, "input", None),
    (EMBEDDINGS, {"input": "a", "encoding_format": "hex"}, "encoding_format", None),
    (EMBEDDINGS, {"input": "a", "dimensions": 0}, "dimensions", None),
    (EMBEDDINGS, {"input": "a", "stream": True}, "stream", "unknown_parameter"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": "word " * 2000}]},
        "messages",
        "context_length_exceeded",
    ),
    (
        CHAT,
        {"messages": [{"role": "user", "content": "a" * 5_000_000}]},
        "messages",
        "context_length_exceeded",
    ),
    (COMPLETIONS, {"prompt": list(range(5, 300)) * 4}, "prompt", "context_length_exceeded"),
    (EMBEDDINGS, {"input": ["ok", "word " * 2000]}, "input", "context_length_exceeded"),
]


async def test_every_bad_field_is_a_400_that_names_it(client):
    """One test for the whole table: each case costs a request, not a database."""
    for route, body, param, code in BAD_BODIES:
        answer = await client.post(route, body)
        shown = f"{route} {json.dumps(body)[:200]} -> {answer.status} {answer.body[:300]!r}"
        assert answer.status == (404 if code == "model_not_found" else 400), shown
        assert set(answer.error) == {"message", "type", "param", "code"}, shown
        assert answer.error["type"] == "invalid_request_error", shown
        assert answer.error["param"] == param, shown
        assert answer.error["code"] == code, shown
        assert len(answer.error["message"]) > 15, shown
        if param is not None and code != "model_not_found":
            assert answer.error["message"].count(f"'{param}'") == 1, shown


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


RAW_BODIES = [
    (b"", "empty"),
    (b"  \n ", "empty"),
    (b"{", "not JSON"),
    (b"hello", "not JSON"),
    (b"\xff\xfe{}", "not UTF-8"),
    (b"\xed\xa0\x80", "not UTF-8"),
    (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "lone surrogate"),
    (b'{"\\udfff": 1}', "lone surrogate"),
    (b'{"messages": NaN}', "NaN"),
    (b'{"temperature": Infinity}', "Infinity"),
    (b'{"temperature": -Infinity}', "-Infinity"),
    (b'{"temperature": 1e999}', "too large"),
    (b'{"max_tokens": 1' + b"0" * 5000 + b"}", "too large"),
    (b'{"n": 1, "n": 2}', "twice"),
    (b'{"messages": [{"role": "user", "role": "user"}]}', "twice"),
    (b"[" * 100_000, "nested"),
    (b'{"a":' * 100_000, "nested"),
    (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
]


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS, EMBEDDINGS])
async def test_every_malformed_body_is_a_400_with_a_sentence(client, route):
    for body, expected in RAW_BODIES:
        answer = await client.post(route, body)
        assert answer.status == 400, (body[:100], answer.body)
        assert answer.error["code"] == "invalid_json", (body[:100], answer.error)
        assert expected in answer.error["message"], (body[:100], answer.error)


async def test_a_byte_order_mark_is_no_mistake(client):
    body = b"\xef\xbb\xbf" + json.dumps(chat(max_tokens=1)).encode()
    assert (await client.post(CHAT, body)).status == 200


async def test_only_json_in_utf_8_is_read(client):
    for content_type in (
        "text/plain",
        "",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ):
        answer = await client.post(CHAT, chat(), content_type=content_type)
        assert answer.status == 415, content_type
        assert "Content-Type: application/json" in answer.error["message"]
    for charset in ("zlib", "utf-16", "latin-1", "rot13"):
        answer = await client.post(
            CHAT, chat(), content_type=f"application/json; charset={charset}"
        )
        assert answer.status == 415, charset
    ok = "application/json; charset=UTF-8"
    assert (await client.post(CHAT, chat(max_tokens=1), content_type=ok)).status == 200


async def test_a_body_over_the_cap_is_refused_before_it_is_complete(client, settings):
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"max_body_bytes": 20_000})
    under_way = await client.begin(CHAT, b"x" * 100_000)
    answer = await under_way.answer()
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")


async def test_an_accept_header_does_not_matter(client):
    for accept in ("text/event-stream", "text/html", "*/*", "nonsense"):
        answer = await client.post(CHAT, chat(max_tokens=1), headers={"accept": accept})
        assert answer.status == 200
        answer = await client.get("/v1/models", headers={"accept": accept})
        assert answer.status == 200


async def test_an_unknown_route_is_a_json_404_and_a_wrong_method_a_json_405(client):
    answer = await client.get("/v1/nothing")
    assert (answer.status, answer.error["code"]) == (404, "unknown_route")
    for route in (CHAT, COMPLETIONS, EMBEDDINGS):
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            if (method, route) == ("GET", CHAT):
                continue  # stored chats
            answer = await client.request(method, route)
            assert (answer.status, answer.error["code"]) == (405, "method_not_allowed"), method
    answer = await client.post("/v1/models", {})
    assert answer.status == 405


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
    from llmapi import consumers

    def broken(*args):
        raise ZeroDivisionError("the secret of the house")

    monkeypatch.setattr(consumers.payloads, "chat_completion", broken)
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
