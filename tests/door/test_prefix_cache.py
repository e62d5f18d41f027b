"""What need not be computed again, and for whom: usage tells it."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from llmapi.backends.base import BackendFailed
from llmapi.backends.link import launch_thread
from llmapi.backends.local import LocalBackend
from llmapi.configured import system_prompt
from llmapi.engine.config import EngineConfig
from tests.engine import tiny

PRIVATE = "You are the private assistant of nobody in particular; keep that to yourself."
CHAT = "/v1/chat/completions"


async def cached_tokens(client, system, question="What is there to see in Hangzhou?", **parameters):
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    body = {"model": "random", "max_tokens": 2, "messages": messages, **parameters}
    answer = await client.post(CHAT, body)
    usage = answer.json()["usage"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}
    return usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]


async def test_the_same_chat_again_is_found_by_its_user_and_by_nobody_else(client, other_client):
    first, length = await cached_tokens(client, PRIVATE)
    again, _ = await cached_tokens(client, PRIVATE)
    strangers, _ = await cached_tokens(other_client, PRIVATE)
    assert (first, strangers) == (0, 0)
    assert again == (length - 1) // 16 * 16 > 0


async def test_a_configured_system_prompt_is_found_by_everyone_and_nothing_after_it(
    client, other_client, shared_system_prompt
):
    """As the client sends it: without the newline at the end of the file."""
    system, question = shared_system_prompt.strip(), "Is this a secret? " * 10
    _, length = await cached_tokens(client, system, question)
    strangers, _ = await cached_tokens(other_client, system, question)
    again, _ = await cached_tokens(other_client, system, question)
    assert 16 <= strangers < 16 * 8 < again == (length - 1) // 16 * 16
    n_of_another, _ = await cached_tokens(other_client, system, "Another.", n=2)
    assert n_of_another == strangers


async def test_a_system_prompt_that_only_begins_like_a_configured_one_is_its_users_own(
    client, other_client, shared_system_prompt
):
    system = shared_system_prompt + "The password is 1234."
    await cached_tokens(client, system)
    assert (await cached_tokens(other_client, system))[0] == 0


async def test_a_configured_text_is_shared_as_a_system_message_only(
    client, other_client, shared_system_prompt
):
    for someone in (client, other_client):
        body = {"messages": [{"role": "user", "content": shared_system_prompt}], "max_tokens": 1}
        answer = await someone.post(CHAT, {**body, "model": "random"})
        assert answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_a_system_prompt_that_the_model_cannot_take_ends_the_start(tmp_path):
    directory = tiny.write_random(tmp_path / "Short", max_position_embeddings=32)
    config = EngineConfig(str(directory), cache_dir=str(tmp_path), threads=1, device="cpu")
    backend = LocalBackend(config, shared_system_prompts=["Verbose. " * 30], launch=launch_thread)
    backend.start(lambda line: None)
    try:
        with pytest.raises(BackendFailed, match=r"LLMAPI_SHARED_SYSTEM_PROMPTS .*32 tokens"):
            backend.wait_ready(60)
    finally:
        backend.stop()


@pytest.mark.parametrize(
    ("data", "says"), [(None, "No such file"), (b"\xff\xfe", "not UTF-8"), (b" \n", "is empty")]
)
def test_a_file_that_is_no_system_prompt_is_named_at_the_start(tmp_path, data, says):
    path = tmp_path / "house.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ImproperlyConfigured, match=says) as caught:
        system_prompt(str(path))
    assert str(path) in str(caught.value)
    assert "LLMAPI_SHARED_SYSTEM_PROMPTS" in str(caught.value)
