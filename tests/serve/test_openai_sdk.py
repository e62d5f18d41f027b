"""The official SDK against a real server: what it sends is understood, what it reads is right."""

import math
from collections.abc import Iterator

import openai
import pytest

from tests.serve.asking import HELLO

MODEL = "nonsense"


@pytest.fixture(scope="module")
def client(server, key) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
        yield client


def test_chat(client, history):
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, temperature=0, max_tokens=12
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    row = history.completion(answer.id)
    assert (row.status, row.texts) == ("completed", (answer.choices[0].message.content,))
    assert row.request_id == answer._request_id


def test_streamed_chat_is_the_same_text_and_ends_with_usage(client):
    asked = {"model": MODEL, "messages": HELLO, "temperature": 0, "max_tokens": 40}
    whole = client.chat.completions.create(**asked)
    with client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = stream
    assert last.choices == []
    assert last.usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"
    assert len({chunk.id for chunk in [*chunks, last]}) == 1


def test_logprobs(client):
    asked = {"model": MODEL, "temperature": 0, "max_tokens": 9}
    chat = client.chat.completions.create(
        **asked, messages=HELLO, logprobs=True, top_logprobs=2, logit_bias={"5": -100}
    )
    assert [len(one.top_logprobs) for one in chat.choices[0].logprobs.content] == [2] * 9
    text = client.completions.create(**asked, prompt="Hello there", echo=True, logprobs=1)
    told = text.choices[0].logprobs
    assert len(told.tokens) == text.usage.total_tokens
    assert told.token_logprobs[0] is None
    assert all(number <= 0 for number in told.token_logprobs[1:])
    assert text.choices[0].text.startswith("Hello there")


def test_the_sdks_stream_helper_puts_the_answer_together(client):
    """It raises for an answer that was cut by max_tokens, and hands over what there is."""
    with client.chat.completions.stream(
        model=MODEL, messages=HELLO, temperature=0, max_tokens=12
    ) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        with pytest.raises(openai.LengthFinishReasonError) as caught:
            stream.get_final_completion()
    assert text
    assert caught.value.completion.choices[0].message.content == text


def test_completion_and_streamed_completion_are_the_same_text(client):
    asked = {"model": MODEL, "prompt": "one two three", "temperature": 0, "max_tokens": 20}
    whole = client.completions.create(**asked)
    assert whole.object == "text_completion"
    assert whole.usage.completion_tokens == 20
    with client.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = stream
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert last.usage == whole.usage


def test_embeddings_in_base64_and_as_floats_are_the_same_numbers(client):
    """base64 is what the SDK asks for by itself."""
    texts = ["The weather is fine today.", "床前明月光"]
    packed = client.embeddings.create(model=MODEL, input=texts)
    plain = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    assert [item.index for item in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert len(one.embedding) == 64
        assert one.embedding == pytest.approx(other.embedding)
        assert math.hypot(*one.embedding) == pytest.approx(1, abs=1e-5)
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > 0


def test_models(client):
    (model,) = client.models.list()
    assert (model.id, model.object) == (MODEL, "model")
    assert client.models.retrieve(MODEL).id == MODEL


def test_async_client_runs_requests_at_once(server, key):
    import asyncio

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key=key, max_retries=0
        ) as client:
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model=MODEL, messages=HELLO, temperature=0, max_tokens=20
                    )
                    for _ in range(8)
                )
            )
        return [answer.choices[0].message.content for answer in answers]

    assert len(set(asyncio.run(ask_all()))) == 1


def test_a_wrong_key_is_an_authentication_error(server):
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert caught.value.code == "invalid_api_key"


def test_a_model_that_is_not_served_is_a_not_found_error(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-nothing", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-nothing")


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"extra_body": {"temperatur": 1}}, "temperatur"),
        ({"stop": [""]}, "stop"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_parameter_is_a_bad_request_error_that_names_it(client, wrong, param, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            **{"model": MODEL, "messages": HELLO, "stream": stream, **wrong}
        )
    assert caught.value.param is not None
    assert caught.value.param.startswith(param)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


def test_a_prompt_over_the_context_is_a_bad_request_error(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "word " * 20000}]
        )
    assert caught.value.code == "context_length_exceeded"
