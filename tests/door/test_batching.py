"""Requests share the engine's steps: they join and leave at every one of them."""

import asyncio

CHAT = "/v1/chat/completions"


def chat(**parameters):
    body = {"messages": [{"role": "user", "content": "Hello"}], "model": "random"}
    return {**body, "temperature": 0, **parameters}


async def test_eight_chats_take_the_steps_of_one(client, backends):
    engine = backends[1]
    before = engine.last_step.step if engine.last_step else 0
    await asyncio.gather(*[client.post(CHAT, chat(max_tokens=200)) for _ in range(8)])
    steps = engine.last_step.step - before
    # One request takes 200 steps; eight one after the other would take 1,600. They are admitted one
    # after the other, while the first already runs; tests/engine counts exactly.
    assert 200 <= steps <= 500


async def test_who_joins_in_the_middle_starts_before_the_others_end(client):
    async with client.stream(CHAT, chat(max_tokens=800)) as long:
        await long.start()
        events = long.events()
        await anext(events)
        joined = await client.post(CHAT, chat(max_tokens=5))
        assert joined.status == 200
        assert not long.ended
        rest = [event async for event in events]
    assert rest[-1] == "[DONE]"


async def test_a_text_alone_is_the_same_text_in_a_batch(client):
    prompts = [
        f"{word} " * (number + 1) for number, word in enumerate(["one", "two", "three", "four"])
    ]
    alone = [await client.chat(p, model="random", temperature=0, max_tokens=30) for p in prompts]
    together = await asyncio.gather(
        *[client.chat(p, model="random", temperature=0, max_tokens=30) for p in prompts]
    )
    assert [a["choices"] for a in alone] == [t["choices"] for t in together]
