"""`python -m tests.browser.content USERNAME`: fills the database of the settings in force with a
history for pages to be looked at: Chinese, code, long texts, versions, markup that means harm."""

import os
import random
import sys
from datetime import timedelta

CODE = """Here is a version that keeps its promises:

```python
def merge(left: list[int], right: list[int]) -> list[int]:
    merged = []
    while left and right:
        merged.append((left if left[0] <= right[0] else right).pop(0))
    return merged + left + right
```

It is stable: of equal numbers the left one comes first. For long lists use `collections.deque`, for
`pop(0)` moves every other element.

```sh
python -m pytest tests/test_merge.py -q
```"""
HARM = (
    '<script>alert("gone")</script><img src=x onerror=alert(1)> \u202egnp.exe & "quotes" '
    "</textarea><b>bold?</b> {{ user.password }}"
)
CHINESE = (
    "当然可以。苏轼（1037年—1101年），字子瞻，号东坡居士，北宋文学家、书画家。\n\n"
    "他的词开豪放一派，与辛弃疾并称“苏辛”；散文著述宏富，为“唐宋八大家”之一。\n\n"
    "代表作有《念奴娇·赤壁怀古》《水调歌头·明月几时有》《赤壁赋》等。"
)
SORTING = "Sorting is an old art.\n\n" + ("A long paragraph about sorting. " * 40 + "\n\n") * 12
RUST = "In Rust, with iterators:\n\n```rust\nlet merged = a.iter().merge(b);\n```"
MINUTES = (
    "1. The budget was approved.\n2. Ann takes over the migration.\n3. Next meeting: the 14th."
)
THREADS = "A process has its own memory; threads share that of theirs. "
HAIKU = "Rain drums the tin roof\nold songs in a new tempo\nthe cat turns over"
TOPICS = (
    ("How do I merge two sorted lists in Python?", CODE),
    ("请介绍一下宋代诗人苏轼。", CHINESE),
    (f"What does this do? {HARM}", f"It tries to run a script: {HARM}"),
    ("Write a haiku about rain on a tin roof", HAIKU),
    ("Summarise the minutes of Tuesday's meeting", MINUTES),
    ("Translate to German: The train leaves at noon", "Der Zug fährt um zwölf Uhr mittags ab."),
    ("What is the capital of China?", "The capital of China is Beijing."),
    ("Explain the difference between a process and a thread", THREADS * 60),
    ("مرحبا، كيف حالك؟", "أنا بخير، شكراً. كيف يمكنني مساعدتك اليوم؟"),
)


def fill(username: str) -> None:
    from django.utils import timezone

    from accounts.models import User
    from accounts.services import key_create
    from conversations.models import Completion, Conversation, Message
    from tests.conversations.conftest import History

    user = User.objects.get(username=username)
    rng, history, now = random.Random(4), History(), timezone.now()
    keys = [key_create(user=user, name=name)[0] for name in ("notebook", "网站后台", "ci")]
    playground = key_create(user=user, name="playground")[0]
    type(playground).objects.filter(pk=playground.pk).update(for_playground=True)
    models = ("SmolLM2-135M-Instruct", "chinese-alpaca-7b", "poems")

    def ask(messages, *texts, age_h, status="completed", **fields):  # type: ignore[no-untyped-def]
        length = sum(len(str(message[1])) for message in messages or [("", "prompt")])
        key = rng.choice([*keys, playground])
        pk = history.start(
            user,
            messages,
            **{
                "model": rng.choice(models),
                "api_key_id": key.pk,
                "public_id": f"{'chatcmpl' if messages else 'cmpl'}-{rng.randrange(10**16):016x}",
                "prompt_tokens": 9 + length // 4,
                **fields,
            },
        )
        if status != "running":
            answered = sum(map(len, texts)) // 4
            history.finish(
                pk,
                *texts,
                status=status,
                prompt_tokens=9 + length // 4,
                completion_tokens=answered,
                cached_tokens=length // 8,
                first_token_ms=rng.randrange(40, 900),
                duration_ms=rng.randrange(300, 9000),
                error="The engine ended in the middle of the answer." if status == "failed" else "",
            )
        at = now - timedelta(hours=age_h)
        Completion.objects.filter(pk=pk).update(created_at=at)
        row = Completion.objects.get(pk=pk)
        if row.conversation_id:
            Conversation.objects.filter(pk=row.conversation_id).update(created_at=at, updated_at=at)
            Message.objects.filter(conversation=row.conversation_id).update(created_at=at)
        return row

    for number in range(70):
        question, answer = TOPICS[number % len(TOPICS)]
        age_h = 3 + number * number * 0.4
        if number >= len(TOPICS):
            question = f"{question} ({number})"
        first = [("user", question)]
        status = "completed" if number % 9 else rng.choice(["failed", "cancelled", "interrupted"])
        ask(first, answer, age_h=age_h, status=status)
        for turn in range(rng.choice([0, 0, 1, 3])):
            first = [*first, ("assistant", answer), ("user", f"Go on, please ({turn + 1}).")]
            answer = f"{turn + 1}. Of course. " + TOPICS[(number + turn + 1) % len(TOPICS)][1]
            ask(first, answer, age_h=age_h - 0.01 * turn)
    for number in range(24):
        age_h = 1 + number * 5
        status = "completed" if number % 5 else "cancelled"
        texts = (f"upon a time there were {number} hens.\n\n" + CODE,)
        ask(None, *texts, age_h=age_h, prompt=["Once"], status=status)
        inputs = ["first text", "第二段文字", HARM]
        embedded = ask(None, age_h=age_h + 1, kind="embedding", prompt=inputs)
        Completion.objects.filter(pk=embedded.pk).update(completion_tokens=0)

    # One to look at closely: versions, a system prompt, a cut answer, an answer that failed.
    system = ("system", "You are a patient teacher. Answer briefly, with code where it helps.")
    start = [system, ("user", TOPICS[0][0])]
    ask(start, CODE, age_h=0.5)
    begun = [*start, ("assistant", CODE)]
    again = [*begun, ("user", "And in Rust?")]
    ask(again, RUST[:40], age_h=0.4, status="cancelled")
    ask(again, RUST, "Use `itertools::merge`.", age_h=0.3)
    ask([*begun, ("user", HARM)], HARM, age_h=0.28)
    all_of_it = ("user", "Tell me all about sorting, please. " + "Really all. " * 30)
    longer = [*again, ("assistant", RUST), all_of_it]
    ask(longer, SORTING, age_h=0.2)
    last = ask(
        [*longer, ("assistant", SORTING), ("user", "Thank you!")], age_h=0.1, status="failed"
    )
    print(last.conversation.public_id)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    django.setup()
    fill(sys.argv[1])
