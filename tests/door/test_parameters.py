"""Every field of every route has one of three fates, and docs/parameters.md says which."""

from django.core.management import call_command

from llmapi.management.commands.reference import ROUTES
from llmapi.serializers import MessageSerializer

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


async def test_null_means_left_out_for_every_parameter(client):
    for route, serializer in ROUTES.items():
        nulls = dict.fromkeys(
            name for name, field in serializer().fields.items() if not field.required
        )
        answer = await client.post(route.removeprefix("POST "), nulls | BODIES[route])
        assert answer.status == 200, answer.body


async def test_every_honoured_parameter_is_kept_with_its_row(client):
    """What is honoured shows in the row; so a parameter that is parsed and dropped fails here."""
    from conversations.models import Completion

    common = {
        "temperature": 0.5,
        "top_p": 0.8,
        "top_k": 7,
        "min_p": 0.05,
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "logit_bias": {"9": -7.5},
        "do_sample": True,
        "seed": 11,
        "stop": ["zzz"],
        "stop_token_ids": [17],
        "min_tokens": 2,
        "ignore_eos": False,
        "max_tokens": 3,
        "n": 2,
        "user": "u",
    }
    alone = {"num_beams": 1}
    beams = {"num_beams": 2, "length_penalty": 0.5, "early_stopping": "never"}
    elsewhere = {"model", "messages", "prompt", "stream", "stream_options", "max_completion_tokens"}
    elsewhere |= {"metadata", "store", "conversation"}  # tests/door/test_keeping.py
    logprobs = {"logprobs": True, "top_logprobs": 3}
    text = {"logprobs": 2, "echo": True, "best_of": 3}
    sent_by_route = {
        "POST /v1/chat/completions": (common | alone | logprobs, common | beams),
        "POST /v1/completions": (
            common | alone | text,
            common | beams,
            common | alone | {"template": "none"},
        ),
    }
    for route, bodies in sent_by_route.items():
        honoured = set(ROUTES[route]().fields) - elsewhere
        assert honoured == set().union(*bodies)
        for body in bodies:
            answer = await client.post(route.removeprefix("POST "), BODIES[route] | body)
            assert answer.status == 200, answer.body
            row = await Completion.objects.select_related("content").alatest("pk")
            assert row.content.parameters == body
