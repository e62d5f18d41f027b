"""The official SDK reads, labels and deletes what was said, and goes on with it by id."""

from collections.abc import Iterator

import openai
import pytest

from tests.serve.asking import HELLO

MODEL = "nonsense"
SHORT = {"model": MODEL, "temperature": 0, "max_tokens": 6}


def sdk(server) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=server.new_key("hilda"), max_retries=0
    )


@pytest.fixture(scope="module")
def client(server) -> Iterator[openai.OpenAI]:
    with sdk(server) as client:
        yield client


@pytest.fixture(scope="module")
def stranger(server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=server.new_key("mallory"), max_retries=0
    ) as client:
        yield client


def ask(client, text="Hello", **parameters):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(**SHORT, messages=messages, **parameters)


def test_a_chat_is_listed_read_labelled_and_deleted(client, history):
    said = ask(client, store=True, metadata={"run": "one", 'od.d "key"': "x"})
    assert said.metadata == {"run": "one", 'od.d "key"': "x"}
    (listed,) = client.chat.completions.list(model=MODEL, metadata={"run": "one"})
    read = client.chat.completions.retrieve(said.id)
    for one in (listed, read):
        assert (one.id, one.created, one.model) == (said.id, said.created, said.model)
        assert one.choices == said.choices
        assert one.usage == said.usage
        assert one.metadata == said.metadata
    (message,) = client.chat.completions.messages.list(said.id)
    assert (message.role, message.content) == ("user", "Hello")

    assert client.chat.completions.update(said.id, metadata={"run": "2"}).metadata == {"run": "2"}
    assert list(client.chat.completions.list(metadata={"run": "one"})) == []

    deleted = client.chat.completions.delete(said.id)
    assert (deleted.id, deleted.deleted) == (said.id, True)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(said.id)
    assert list(client.chat.completions.list(metadata={"run": "2"})) == []
    (row,) = history.rows(
        "SELECT completion_tokens, head_id FROM conversations_completion WHERE public_id = %s",
        said.id,
    )
    assert row == (6, None), "the usage stays"


def test_a_hundred_chats_are_paged_through_one_after_the_other(client):
    made = [ask(client, f"number {i}", metadata={"of": "100"}, n=1).id for i in range(100)]
    found = [one.id for one in client.chat.completions.list(metadata={"of": "100"}, limit=7)]
    assert found == made
    last = client.chat.completions.list(metadata={"of": "100"}, order="desc", limit=1)
    assert last.data[0].id == made[-1]
    assert last.has_more
    # Each is deleted while the list is walked.
    for one in client.chat.completions.list(metadata={"of": "100"}, limit=30):
        client.chat.completions.delete(one.id)
    assert list(client.chat.completions.list(metadata={"of": "100"})) == []


def test_a_conversation_is_made_read_labelled_and_deleted(client):
    made = client.conversations.create(
        metadata={"topic": "demo"},
        items=[
            {"type": "message", "role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        ],
    )
    assert made.id.startswith("conv_")
    assert (made.object, made.metadata) == ("conversation", {"topic": "demo"})
    assert client.conversations.retrieve(made.id) == made
    updated = client.conversations.update(made.id, metadata={"topic": "other"})
    assert updated.metadata == {"topic": "other"}

    added = client.conversations.items.create(
        made.id, items=[{"role": "assistant", "content": "Hi."}, {"role": "user", "content": "?"}]
    )
    assert [item.content[0].type for item in added.data] == ["output_text", "input_text"]
    # Two pages, newest first.
    listed = list(client.conversations.items.list(made.id, limit=3))
    assert [item.content[0].text for item in listed] == ["?", "Hi.", "Hello", "Be brief."]
    one = client.conversations.items.retrieve(listed[1].id, conversation_id=made.id)
    assert one == listed[1]

    left = client.conversations.items.delete(listed[1].id, conversation_id=made.id)
    assert (left.id, left.object) == (made.id, "conversation")
    texts = [item.content[0].text for item in client.conversations.items.list(made.id, order="asc")]
    assert texts == ["Be brief.", "Hello", "?"]

    gone = client.conversations.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "conversation.deleted")
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(made.id)


def test_a_chat_goes_on_with_a_conversation_by_its_id(client):
    """The second turn sends its own words alone, and is asked with all that was said before."""
    first = ask(client, "The secret word is aubergine.")
    conversation = first.conversation["id"]
    alone = ask(client, "What is it?")
    second = ask(client, "What is it?", extra_body={"conversation": conversation})
    said = [
        {"role": "user", "content": "The secret word is aubergine."},
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "What is it?"},
    ]
    whole = client.chat.completions.create(**SHORT, messages=said)
    assert second.usage.prompt_tokens == whole.usage.prompt_tokens > alone.usage.prompt_tokens
    assert second.choices[0].message.content == whole.choices[0].message.content
    assert second.conversation == {"id": conversation}

    messages = client.chat.completions.messages.list(second.id)
    assert [{"role": m.role, "content": m.content} for m in messages] == said
    third = ask(client, "And?", stream=True, extra_body={"conversation": {"id": conversation}})
    text = "".join(chunk.choices[0].delta.content or "" for chunk in third)
    items = list(client.conversations.items.list(conversation, order="asc"))
    assert [item.content[0].text for item in items] == [
        *(m["content"] for m in said),
        second.choices[0].message.content,
        "And?",
        text,
    ]


def test_another_users_history_is_not_found_on_any_route(client, stranger):
    said = ask(client, metadata={"mine": "yes"})
    conversation = said.conversation["id"]
    (item, *_) = client.conversations.items.list(conversation)
    assert list(stranger.chat.completions.list()) == []
    chats, conversations = stranger.chat.completions, stranger.conversations
    for attempt in (
        lambda: chats.retrieve(said.id),
        lambda: chats.update(said.id, metadata={}),
        lambda: chats.delete(said.id),
        lambda: chats.list(after=said.id),
        lambda: chats.messages.list(said.id),
        lambda: conversations.retrieve(conversation),
        lambda: conversations.update(conversation, metadata={}),
        lambda: conversations.delete(conversation),
        lambda: conversations.items.list(conversation),
        lambda: conversations.items.create(conversation, items=[{"role": "user", "content": "x"}]),
        lambda: conversations.items.retrieve(item.id, conversation_id=conversation),
        lambda: conversations.items.delete(item.id, conversation_id=conversation),
        lambda: ask(stranger, extra_body={"conversation": conversation}),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            attempt()
        assert caught.value.code == "not_found"
    assert client.chat.completions.retrieve(said.id).choices == said.choices


def test_unknown_conversation_names_its_parameter(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(
            **SHORT, messages=HELLO, extra_body={"conversation": "conv_nothing"}
        )
    assert caught.value.param == "conversation"
