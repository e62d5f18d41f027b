"""POST /v1/chat/completions: the shapes, the stream, the parameters."""

import pytest

from tests.engine.tiny import RECITAL

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]


async def test_an_answer_has_openais_shape_and_counts_its_tokens(client):
    answer = await client.post(CHAT, {"messages": HELLO, "temperature": 0})
    body = answer.json()
    assert answer.status == 200
    assert set(body) == {
        *("id", "object", "created", "model", "choices", "usage"),
        "conversation",  # ours
    }
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["model"] == "reciter"
    (choice,) = body["choices"]
    assert choice["index"] == 0
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"] is None
    assert choice["message"] == {"role": "assistant", "content": RECITAL, "refusal": None}
    usage = body["usage"]
    assert usage["prompt_tokens"] > 0
    assert usage["completion_tokens"] > 10
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert answer.headers["x-request-id"].startswith("req_")
    assert int(answer.headers["openai-processing-ms"]) >= 0


async def test_a_stream_is_the_same_text_in_whole_characters(client):
    """Characters and emoji of the reciter's text are split over tokens of its small vocabulary."""
    whole = await client.chat(temperature=0)
    events = await client.events(CHAT, {"messages": HELLO, "temperature": 0})
    assert events[-1] == "[DONE]"
    chunks = events[:-1]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all("usage" not in chunk for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    pieces = [delta.get("content", "") for delta in deltas]
    assert "".join(pieces) == whole["choices"][0]["message"]["content"] == RECITAL
    assert len([piece for piece in pieces if piece]) > 10, "the text came in pieces"
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons[-1] == "stop"
    assert set(reasons[:-1]) == {None}


async def test_include_usage_adds_one_chunk_before_done_and_null_to_all_others(client):
    body = {"messages": HELLO, "max_tokens": 5, "stream_options": {"include_usage": True}}
    events = await client.events(CHAT, body)
    *chunks, usage, done = events
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 5
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_max_tokens_ends_with_length_and_drops_half_a_character(client):
    for max_tokens in range(1, 12):
        body = await client.chat(temperature=0, max_tokens=max_tokens)
        (choice,) = body["choices"]
        assert choice["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == max_tokens
        assert RECITAL.startswith(choice["message"]["content"])
        assert "\N{REPLACEMENT CHARACTER}" not in choice["message"]["content"]


async def test_max_completion_tokens_is_the_same_parameter(client):
    body = await client.chat(temperature=0, max_completion_tokens=3)
    assert body["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_the_text_before_it_and_is_never_sent(client, stream):
    stop, expected = "啼鸟", RECITAL.partition("啼鸟")[0]
    if not stream:
        body = await client.chat(temperature=0, stop=["不在这里", stop])
        assert body["choices"][0]["message"]["content"] == expected
        assert body["choices"][0]["finish_reason"] == "stop"
        return
    events = await client.events(CHAT, {"messages": HELLO, "temperature": 0, "stop": stop})
    pieces = [event["choices"][0]["delta"].get("content", "") for event in events[:-1]]
    assert "".join(pieces) == expected


async def test_the_same_seed_gives_the_same_text_and_n_choices_differ(client):
    parameters = {"model": "random", "temperature": 1.5, "top_k": 0, "top_p": 1, "max_tokens": 20}
    one = await client.chat(seed=7, n=3, **parameters)
    two = await client.chat(seed=7, n=3, **parameters)
    texts = [choice["message"]["content"] for choice in one["choices"]]
    assert texts == [choice["message"]["content"] for choice in two["choices"]]
    assert len(set(texts)) == 3
    assert [choice["index"] for choice in one["choices"]] == [0, 1, 2]
    assert one["usage"]["completion_tokens"] == 60


async def test_streamed_choices_each_name_their_role_and_their_end(client):
    body = {"messages": HELLO, "model": "random", "temperature": 0, "n": 2, "max_tokens": 9}
    events = await client.events(CHAT, body)
    for index in (0, 1):
        chunks = [e["choices"][0] for e in events[:-1] if e["choices"][0]["index"] == index]
        assert chunks[0]["delta"]["role"] == "assistant"
        assert [chunk["finish_reason"] for chunk in chunks if chunk["finish_reason"]] == ["length"]


async def test_beam_search_answers(client):
    body = await client.chat(num_beams=4, temperature=0.7, top_k=40, max_tokens=12, model="random")
    assert body["usage"]["completion_tokens"] <= 12
    body = await client.chat(num_beams=2, n=2, do_sample=False, max_tokens=8, model="random")
    assert len(body["choices"]) == 2


async def test_a_streamed_beam_search_sends_what_all_beams_agree_on(client):
    body = {"num_beams": 2, "do_sample": False, "max_tokens": 80, "model": "random"}
    whole = await client.chat("Tell me more", **body)
    events = await client.events(
        CHAT,
        {
            "messages": [{"role": "user", "content": "Tell me more"}],
            "stream_options": {"include_usage": True},
            **body,
        },
    )
    *chunks, usage, done = events
    assert done == "[DONE]"
    pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    assert len([piece for piece in pieces if piece]) > 2
    assert usage["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


async def test_white_space_of_a_prompt_reaches_the_tokenizer(client):
    plain = await client.chat("x", max_tokens=1)
    spaced = await client.chat(" x ", max_tokens=1)
    assert spaced["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


async def test_control_tokens_in_user_text_are_text(client):
    """`<|im_end|>` typed by a user is several tokens; as a control token it would be one."""
    plain = await client.chat("", max_tokens=1)
    typed = await client.chat("<|im_end|>", max_tokens=1)
    assert typed["usage"]["prompt_tokens"] - plain["usage"]["prompt_tokens"] > 3


async def test_text_parts_are_one_text(client):
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    messages = [{"role": "user", "content": parts}]
    one = await client.post(CHAT, {"messages": messages, "max_tokens": 1})
    two = await client.chat("Hello", max_tokens=1)
    assert one.json()["usage"] == two["usage"]


async def test_null_means_left_out(client):
    names = ("max_tokens", "temperature", "top_p", "stop", "seed", "n", "stream", "tools", "user")
    body = {"messages": HELLO, "model": None} | dict.fromkeys(names)
    assert (await client.post(CHAT, body)).status == 200


# ---- the seed's dialect -------------------------------------------------------------------------


async def test_the_seeds_key_gets_the_seeds_shape(client):
    messages = [
        {"role": "user", "message": "给我讲一些有关杭州的故事吧"},
        {"role": "assistant", "message": "好的"},
        {"role": "user", "message": "西湖"},
    ]
    answer = await client.post(CHAT, {"messages": messages, "repetition_penalty": 1.0})
    choices = answer.json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    asked = [choice["message"] for choice in choices[:3]]
    assert asked == [{"role": m["role"], "content": m["message"]} for m in messages]
    assert choices[3]["message"]["role"] == "assistant"
    assert choices[3]["finish_reason"] == "stop"


async def test_mixed_keys_are_the_seeds_dialect_and_both_in_one_message_an_error(client):
    mixed = [{"role": "system", "content": "Be kind."}, {"role": "user", "message": "Hi"}]
    answer = await client.post(CHAT, {"messages": mixed, "max_tokens": 2})
    assert len(answer.json()["choices"]) == 3
    both = [{"role": "user", "content": "Hi", "message": "Hi"}]
    answer = await client.post(CHAT, {"messages": both})
    assert answer.status == 400
    assert answer.error["param"] == "messages[0].message"
