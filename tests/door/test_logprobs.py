"""Log probabilities, echo and best_of at the door, in OpenAI's shapes."""

import math

import pytest
from openai.types import Completion as TextCompletion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llmapi.backends.base import GenerationOptions
from llmapi.backends.sampling import SamplingDefaults
from tests.engine.tiny import RECITAL

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
RAW = {"prompt": "the quick brown fox", "temperature": 0, "template": "none", "model": "random"}


def data_of(content):
    return b"".join(bytes(item["bytes"] or []) for item in content)


async def text_of(client, **parameters):
    answer = await client.post(COMPLETIONS, parameters)
    assert answer.status == 200, answer.body
    if not (parameters.get("echo") and parameters.get("logprobs") is not None):
        # The SDK's type has no null for a prompt's first token, though OpenAI's API had.
        TextCompletion.model_validate(answer.json(), strict=True)
    return answer.json()


# ---- chat ---------------------------------------------------------------------------------------


async def test_logprobs_of_a_chat_have_openais_shape(client):
    body = await client.chat(temperature=0, logprobs=True, top_logprobs=3)
    ChatCompletion.model_validate(body, strict=True)
    (choice,) = body["choices"]
    assert set(choice["logprobs"]) == {"content", "refusal"}
    assert choice["logprobs"]["refusal"] is None
    content = choice["logprobs"]["content"]
    assert len(content) == body["usage"]["completion_tokens"]
    assert data_of(content).decode() == choice["message"]["content"] == RECITAL
    for item in content:
        assert set(item) == {"token", "logprob", "bytes", "top_logprobs"}
        assert item["logprob"] <= 0
        assert len(item["top_logprobs"]) == 3
        best = item["top_logprobs"][0]  # greedy, and this model is sure of itself
        assert {name: item[name] for name in ("token", "logprob", "bytes")} == best
    # Characters of several tokens: each shows its bytes, and is written as OpenAI writes them.
    halves = [item for item in content if item["token"].startswith("\\x")]
    assert halves
    assert halves[0]["token"] == "".join(f"\\x{byte:02x}" for byte in halves[0]["bytes"])
    assert content[-1]["token"] == "<|im_end|>"
    assert content[-1]["bytes"] is None


async def test_without_top_logprobs_only_the_tokens_own_are_told(client):
    body = await client.chat(temperature=0, max_tokens=4, logprobs=True)
    assert all(item["top_logprobs"] == [] for item in body["choices"][0]["logprobs"]["content"])


async def test_streamed_logprobs_are_the_same_chunk_by_chunk(client):
    asked = {"logprobs": True, "top_logprobs": 2}
    whole = await client.chat(temperature=0, **asked)
    *chunks, _ = await client.events(CHAT, HELLO | asked)
    choices = [chunk["choices"][0] for chunk in chunks]
    streamed = []
    text = ""
    for chunk, choice in zip(chunks, choices, strict=True):
        ChatCompletionChunk.model_validate(chunk, strict=True)
        text += choice["delta"].get("content", "")
        if choice["logprobs"] is not None:
            streamed += choice["logprobs"]["content"]
        assert data_of(streamed).decode(errors="ignore") == text
    expected = whole["choices"][0]["logprobs"]["content"]
    assert [item["token"] for item in streamed] == [item["token"] for item in expected]
    assert [item["logprob"] for item in streamed] == pytest.approx(
        [item["logprob"] for item in expected], abs=1e-4
    )
    assert choices[0]["logprobs"] is None
    assert choices[-1]["logprobs"] is None


async def test_a_stop_string_shows_in_no_logprob(client):
    body = await client.chat(temperature=0, logprobs=True, stop="啼鸟")
    content = body["choices"][0]["logprobs"]["content"]
    assert data_of(content).decode() == body["choices"][0]["message"]["content"]
    assert len(content) < body["usage"]["completion_tokens"]


async def test_logit_bias_bans_and_forces_tokens(client):
    free = await client.chat(temperature=0, max_tokens=1, logprobs=True, top_logprobs=2)
    best = free["choices"][0]["logprobs"]["content"][0]["token"]
    ids = range(3, 400)
    banned = await client.chat(
        temperature=0,
        max_tokens=1,
        logprobs=True,
        logit_bias={str(i): -100 for i in ids if i != 40},
    )
    (item,) = banned["choices"][0]["logprobs"]["content"]
    assert item["token"] != best
    # The log probability stays the model's own.
    assert item["logprob"] < -1


async def test_an_id_outside_the_vocabulary_is_named(client):
    for name, value in (("logit_bias", {"5": 1, "1234": 1}), ("stop_token_ids", [5, 1234])):
        answer = await client.post(CHAT, HELLO | {name: value})
        assert (answer.status, answer.error["param"]) == (400, name)
        assert "1234" in answer.error["message"]


# ---- completions --------------------------------------------------------------------------------


@pytest.mark.parametrize("logprobs", [0, 1, 5])
async def test_logprobs_of_a_completion_have_openais_shape(client, logprobs):
    body = await text_of(client, **RAW, max_tokens=12, logprobs=logprobs)
    (choice,) = body["choices"]
    told = choice["logprobs"]
    assert set(told) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert {len(values) for values in told.values()} == {12}
    assert told["text_offset"][0] == 0
    assert told["text_offset"] == sorted(told["text_offset"])
    for token, logprob, top, offset in zip(*told.values(), strict=True):
        assert top[token] >= logprob
        assert 1 <= len(top) <= logprobs + 1
        if not token.startswith(("bytes:", "<|")) and "\ufffd" not in choice["text"][offset:]:
            assert choice["text"][offset:].startswith(token)


async def test_echo_puts_the_prompt_in_front_and_continues_it_raw(client):
    plain = await text_of(client, **RAW, max_tokens=8)
    asked = {name: value for name, value in RAW.items() if name != "template"}
    body = await text_of(client, **asked, max_tokens=8, echo=True)
    assert body["choices"][0]["text"] == RAW["prompt"] + plain["choices"][0]["text"]
    assert body["choices"][0]["logprobs"] is None
    assert body["usage"] == plain["usage"]


async def test_the_row_keeps_the_answer_without_the_echo(client):
    from conversations.models import Completion

    plain = await text_of(client, **RAW, max_tokens=8)
    await text_of(client, **RAW, max_tokens=8, echo=True)
    row = await Completion.objects.select_related("content").alatest("pk")
    assert row.content.prompt == RAW["prompt"]
    assert [one["text"] for one in row.content.output] == [plain["choices"][0]["text"]]


@pytest.mark.parametrize("max_tokens", [0, 1])
async def test_lm_evals_request_is_scored(client, max_tokens):
    """Token ids, echo, logprobs: the prompt's tokens first, the first of them without a number;
    with max_tokens 1 exactly one more, also if it is an end token."""
    prompts = [[5, 60, 70, 80, 90], [40, 41, 42]]
    asked = {"prompt": prompts, "temperature": 0, "echo": True, "logprobs": 1, "seed": 1234}
    for bias in ({}, {"2": 100}):
        body = await text_of(
            client, **asked, model="random", max_tokens=max_tokens, logit_bias=bias
        )
        assert body["usage"]["prompt_tokens"] == 8
        assert body["usage"]["completion_tokens"] == 2 * max_tokens
        for prompt, choice in zip(prompts, body["choices"], strict=True):
            told = choice["logprobs"]
            assert {len(values) for values in told.values()} == {len(prompt) + max_tokens}
            assert told["token_logprobs"][0] is None
            assert told["top_logprobs"][0] is None
            for number, top in zip(
                told["token_logprobs"][1:], told["top_logprobs"][1:], strict=True
            ):
                assert math.isfinite(number)
                assert number <= max(top.values())
        if max_tokens and bias:
            assert body["choices"][0]["logprobs"]["tokens"][-1] == "<|im_end|>"


async def test_a_streamed_echo_is_the_same_text_and_the_same_logprobs(client):
    asked = {**RAW, "max_tokens": 9, "echo": True, "n": 2}
    for logprobs in (None, 2):
        for max_tokens in (0, 9):
            body = {**asked, "logprobs": logprobs, "max_tokens": max_tokens}
            whole = await text_of(client, **body)
            events = await client.events(COMPLETIONS, body)
            assert events[-1] == "[DONE]"
            for choice in whole["choices"]:
                own = [
                    event["choices"][0]
                    for event in events[:-1]
                    if event["choices"][0]["index"] == choice["index"]
                ]
                assert "".join(part["text"] for part in own) == choice["text"]
                assert own[-1]["finish_reason"] == "length"
                if logprobs is None:
                    assert all(part["logprobs"] is None for part in own)
                    continue
                for name in ("tokens", "text_offset"):
                    streamed = [
                        v for part in own if part["logprobs"] for v in part["logprobs"][name]
                    ]
                    assert streamed == choice["logprobs"][name]


async def test_a_prompt_of_token_ids_is_echoed_as_text(client):
    body = await text_of(client, prompt=[5, 6, 7], echo=True, max_tokens=0, model="random")
    raw = await text_of(
        client, prompt=body["choices"][0]["text"], echo=True, max_tokens=0, model="random"
    )
    assert body["choices"][0]["text"] == raw["choices"][0]["text"]
    assert len(body["choices"][0]["text"]) == 3


async def test_best_of_sends_the_most_probable_and_counts_all(client):
    asked = {**RAW, "temperature": 1.5, "top_k": 0, "top_p": 1, "seed": 3, "max_tokens": 10}
    every = await text_of(client, **asked, n=4, logprobs=0)

    def mean(choice):
        numbers = choice["logprobs"]["token_logprobs"]
        return sum(numbers) / len(numbers)

    ranked = sorted(every["choices"], key=mean, reverse=True)
    best = await text_of(client, **asked, best_of=4, n=2)
    assert [choice["text"] for choice in best["choices"]] == [one["text"] for one in ranked[:2]]
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    assert best["usage"] == every["usage"]
    assert best["choices"][0]["logprobs"] is None


async def test_best_of_n_is_n_and_may_be_streamed(client):
    body = {**RAW, "max_tokens": 5, "n": 2, "best_of": 2}
    events = await client.events(COMPLETIONS, body)
    assert {event["choices"][0]["index"] for event in events[:-1]} == {0, 1}


# ---- the other parameters -----------------------------------------------------------------------


async def test_stop_token_ids_min_tokens_and_ignore_eos_reach_the_engine(client):
    plain = await client.chat(temperature=0, model="random", max_tokens=9, logprobs=True)
    drawn = [item["token"] for item in plain["choices"][0]["logprobs"]["content"]]
    every = list(range(100, 228))
    cut = await client.chat(temperature=0, model="random", max_tokens=9, stop_token_ids=every)
    later = await client.chat(
        temperature=0, model="random", max_tokens=9, stop_token_ids=every, min_tokens=8
    )
    assert len(drawn) == 9
    assert cut["choices"][0]["finish_reason"] == "stop"
    assert cut["usage"]["completion_tokens"] < 8
    assert later["usage"]["completion_tokens"] >= 8
    on = await client.chat(temperature=0, max_tokens=150, ignore_eos=True)
    assert on["choices"][0]["finish_reason"] == "length"
    assert on["usage"]["completion_tokens"] == 150


async def test_penalties_and_min_p_reach_the_engine(client):
    asked = {"model": "random", "temperature": 0, "max_tokens": 30, "repetition_penalty": 1}
    few = {"logit_bias": {str(token): 100 for token in range(50, 56)}}
    plain = await client.chat(**asked, **few)
    for name in ("frequency_penalty", "presence_penalty", "repetition_penalty"):
        other = await client.chat(**asked | few | {name: 2})
        assert other["choices"][0]["message"] != plain["choices"][0]["message"], name
    hot = {**asked, "temperature": 2, "top_k": 0, "top_p": 1}
    greedy = await client.chat(**asked)
    sure = await client.chat(**hot, min_p=1)
    assert sure["choices"][0]["message"] == greedy["choices"][0]["message"]


def test_parameters_of_beam_search_are_handed_on():
    def resolved(**options):
        return SamplingDefaults().resolve(GenerationOptions(num_beams=2, **options), 100)

    assert resolved(length_penalty=-2.0).length_penalty == -2
    values = [resolved(early_stopping=value).early_stopping for value in (True, False, "never")]
    assert values == [True, False, None]
    assert resolved() == resolved(length_penalty=1.0, early_stopping=False)
