"""POST /v1/completions and /v1/embeddings."""

import base64
import math
import struct

COMPLETIONS, EMBEDDINGS = "/v1/completions", "/v1/embeddings"


async def test_a_completion_has_openais_shape(client):
    answer = await client.post(COMPLETIONS, {"prompt": "Hello", "max_tokens": 4})
    body = answer.json()
    assert body["id"].startswith("cmpl-")
    assert body["object"] == "text_completion"
    (choice,) = body["choices"]
    assert set(choice) == {"index", "text", "logprobs", "finish_reason"}
    assert choice["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 4


async def test_a_streamed_completion_is_the_same_text(client):
    body = {"prompt": "Hello", "temperature": 0, "max_tokens": 40, "model": "random"}
    whole = (await client.post(COMPLETIONS, body)).json()["choices"][0]["text"]
    events = await client.events(COMPLETIONS, body)
    assert events[-1] == "[DONE]"
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == whole
    assert events[-2]["choices"][0]["finish_reason"] == "length"


async def test_a_text_prompt_is_wrapped_unless_the_template_is_none(client):
    wrapped = await client.post(COMPLETIONS, {"prompt": "Hello", "max_tokens": 1})
    chat = await client.chat("Hello", max_tokens=1)
    raw = await client.post(COMPLETIONS, {"prompt": "Hello", "max_tokens": 1, "template": "none"})
    assert wrapped.json()["usage"] == chat["usage"]
    assert raw.json()["usage"]["prompt_tokens"] < wrapped.json()["usage"]["prompt_tokens"]


async def test_token_ids_are_raw_and_one_prompt(client):
    answer = await client.post(COMPLETIONS, {"prompt": [5, 6, 7], "max_tokens": 1})
    assert answer.json()["usage"]["prompt_tokens"] == 3
    answer = await client.post(COMPLETIONS, {"prompt": [[5, 6], [7, 8, 9]], "max_tokens": 1})
    assert answer.json()["usage"]["prompt_tokens"] == 5
    assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1]


async def test_several_prompts_times_n_number_their_choices_in_order(client):
    body = {"prompt": ["one", "two"], "n": 2, "max_tokens": 6, "temperature": 0, "model": "random"}
    choices = (await client.post(COMPLETIONS, body)).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    alone = await client.post(COMPLETIONS, {**body, "prompt": "two", "n": 1})
    assert choices[2]["text"] == choices[3]["text"] == alone.json()["choices"][0]["text"]


async def test_embeddings_are_unit_vectors_as_long_as_the_hidden_size(client):
    answer = await client.post(EMBEDDINGS, {"input": ["one", "two two", "one"]})
    body = answer.json()
    assert body["object"] == "list"
    assert [item["index"] for item in body["data"]] == [0, 1, 2]
    vectors = [item["embedding"] for item in body["data"]]
    assert {len(vector) for vector in vectors} == {64}
    assert all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-5) for vector in vectors)
    assert max(abs(a - b) for a, b in zip(vectors[0], vectors[2], strict=True)) < 1e-5
    assert max(abs(a - b) for a, b in zip(vectors[0], vectors[1], strict=True)) > 1e-2
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 0


async def test_base64_is_little_endian_float32(client):
    as_floats = await client.post(EMBEDDINGS, {"input": "one", "encoding_format": "float"})
    as_base64 = await client.post(EMBEDDINGS, {"input": "one", "encoding_format": "base64"})
    raw = base64.b64decode(as_base64.json()["data"][0]["embedding"])
    assert list(struct.unpack("<64f", raw)) == as_floats.json()["data"][0]["embedding"]


async def test_dimensions_shorten_and_normalise_again(client):
    answer = await client.post(EMBEDDINGS, {"input": "one", "dimensions": 8})
    (item,) = answer.json()["data"]
    assert len(item["embedding"]) == 8
    assert math.isclose(math.hypot(*item["embedding"]), 1, rel_tol=1e-5)
    answer = await client.post(EMBEDDINGS, {"input": "one", "dimensions": 65})
    assert (answer.status, answer.error["param"]) == (400, "dimensions")


async def test_embeddings_of_token_ids(client):
    answer = await client.post(EMBEDDINGS, {"input": [[5, 6, 7], [8]]})
    assert len(answer.json()["data"]) == 2
    assert answer.json()["usage"]["prompt_tokens"] == 4
