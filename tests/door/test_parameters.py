"""Every field of every route has one of three fates, and docs/parameters.md says which."""

from django.core.management import call_command

from llmapi.management.commands.reference import ROUTES
from llmapi.serializers import ChatCompletionSerializer, MessageSerializer

BODIES = {
    "POST /v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1},
    "POST /v1/completions": {"prompt": "Hi", "max_tokens": 1},
    "POST /v1/embeddings": {"input": "Hi"},
}
NOT_NEUTRAL = "certainly not neutral"


def test_the_reference_pages_are_up_to_date():
    call_command("reference", check=True)


def test_no_field_has_two_fates():
    for serializer in (*ROUTES.values(), MessageSerializer):
        assert not set(serializer().fields) & set(serializer.neutral)


async def test_neutral_values_change_nothing_and_any_other_is_refused_by_name(client):
    for route, serializer in ROUTES.items():
        path = route.removeprefix("POST ")
        for name, values in serializer.neutral.items():
            for value in (None, *values):
                answer = await client.post(path, {**BODIES[route], name: value})
                assert answer.status == 200, (route, name, value, answer.body)
            answer = await client.post(path, {**BODIES[route], name: NOT_NEUTRAL})
            assert answer.status == 400, (route, name)
            assert answer.error["code"] == "unsupported_parameter", (route, name)
            assert answer.error["param"] == name


async def test_neutral_keys_of_a_message_are_accepted_and_others_refused(client):
    """An SDK sends the whole message of an earlier answer back, nulls included."""
    said = {"role": "assistant", "content": "Hello", **dict.fromkeys(MessageSerializer.neutral)}
    messages = [{"role": "user", "content": "Hi"}, said, {"role": "user", "content": "Hi"}]
    body = {"messages": messages, "max_tokens": 1}
    assert (await client.post("/v1/chat/completions", body)).status == 200
    for name in MessageSerializer.neutral:
        said[name] = NOT_NEUTRAL
        answer = await client.post("/v1/chat/completions", body)
        assert answer.error["code"] == "unsupported_parameter"
        assert answer.error["param"] == f"messages[1].{name}"
        said[name] = None


async def test_every_honoured_parameter_of_a_chat_is_kept_with_its_row(client):
    """What is honoured shows in the row; so a parameter that is parsed and dropped fails here."""
    from conversations.models import Completion

    sent = {
        "temperature": 0.5,
        "top_p": 0.8,
        "top_k": 7,
        "repetition_penalty": 1.3,
        "do_sample": True,
        "num_beams": 2,
        "n": 2,
        "seed": 11,
        "stop": ["zzz"],
        "max_tokens": 3,
        "user": "u",
    }
    elsewhere = {"model", "messages", "stream", "stream_options", "max_completion_tokens"}
    assert set(sent) | elsewhere == set(ChatCompletionSerializer().fields)
    await client.chat(**sent)
    row = await Completion.objects.select_related("content").aget()
    assert row.content.parameters == sent
