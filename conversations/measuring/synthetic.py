"""A history that nobody made: for measuring what many rows cost, and for looking at full pages.

Chats that go on, branch and repeat their beginnings; completions; embeddings; failures. Some users
ask much and most ask little. The same seed makes the same history, but for its dates, which end
now.
"""

import json
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from random import Random
from typing import Any

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from accounts import keys
from accounts.models import ApiKey, User
from conversations.ids import ALPHABET, LENGTH
from conversations.measuring.babble import Babble
from conversations.measuring.bulk import Loader
from conversations.models import Completion, CompletionContent, Conversation, Message
from conversations.tree import chain
from conversations.tree.said import NewMessage, title_of

ROWS_AT_ONCE = 20_000
MODELS = ("SmolLM2-135M-Instruct", "chinese-alpaca-2-7b", "law", "medical")
MODEL_WEIGHTS = (60, 25, 10, 5)
STATUSES = ("completed", "cancelled", "failed", "interrupted")
STATUS_WEIGHTS = (930, 40, 25, 5)
ERRORS = {
    "failed": "The engine ran out of memory for this request.",
    "interrupted": "The server process that was answering ended before the answer did.",
}


@dataclass(frozen=True, slots=True)
class Plan:
    completions: int
    users: int
    days: int
    seed: int


def generate(plan: Plan, report: Callable[[int], None]) -> None:
    """Writes the history, in transactions of some thousand requests; tells `report` how many
    there are so far. Users `synthetic-0001`, ... are made, or used again."""
    tables = {
        "conversations": Loader(
            Conversation,
            *("id", "public_id", "user", "api_key", "title", "created_at", "updated_at"),
        ),
        "completions": Loader(
            Completion,
            *("id", "public_id", "kind", "user", "api_key", "conversation", "head", "model"),
            *("status", "finish_reason", "streamed", "prompt_tokens", "completion_tokens"),
            *("cached_tokens", "created_at", "finished_at", "first_token_ms", "duration_ms"),
            *("request_id", "error", "was_answered"),
        ),
        "contents": Loader(CompletionContent, "completion", "parameters", "prompt", "output"),
        "messages": Loader(
            Message,
            *("id", "public_id", "conversation", "parent", "depth", "role", "content"),
            *("chain_hash", "completion", "choice_index", "finish_reason", "created_at"),
        ),
    }
    writer = Writer(plan)
    while writer.done < plan.completions:
        while writer.done < plan.completions and len(writer.rows["completions"]) < ROWS_AT_ONCE:
            writer.write_some()
        with transaction.atomic():
            for name, table in tables.items():
                table.load(writer.rows[name])
                table.move_sequence()
                writer.rows[name].clear()
        report(writer.done)


class Writer:
    """Makes rows, and keeps them in `rows` until somebody takes them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.random = Random(plan.seed)  # noqa: S311 - nobody's secret
        self.rows: dict[str, list[tuple[Any, ...]]] = {
            name: [] for name in ("conversations", "completions", "contents", "messages")
        }
        self.done = 0
        self.next_pk = {
            model: (model.objects.aggregate(last=Max("pk"))["last"] or 0) + 1
            for model in (Conversation, Completion, Message)
        }
        self.owners = self.make_owners()
        # The tenth user asks a quarter of what the first does.
        self.shares = list(accumulate(1 / (number + 1) ** 0.6 for number in range(plan.users)))
        self.text = Babble(self.random).text
        self.first_day = timezone.now().astimezone(UTC) - timedelta(days=plan.days)

    def make_owners(self) -> list[tuple[int, list[int]]]:
        """(user, two keys of it) by primary keys. The keys open nothing: nobody has their text."""
        owners = []
        for number in range(1, self.plan.users + 1):
            user, _ = User.objects.get_or_create(
                username=f"synthetic-{number:04}", defaults={"password": "!"}
            )
            made = [keys.new_key() for _ in range(2 - min(2, user.api_keys.count()))]
            ApiKey.objects.bulk_create(
                ApiKey(
                    user=user,
                    name=f"key {index + 1} of {user.username}",
                    public_id=key.public_id,
                    digest=key.digest,
                    last_four=key.last_four,
                )
                for index, key in enumerate(made)
            )
            owners.append(
                (user.pk, list(user.api_keys.order_by("pk").values_list("pk", flat=True)))
            )
        return owners

    def write_some(self) -> None:
        """One request, or one chat of several."""
        place = bisect(self.shares, self.random.random() * self.shares[-1])
        user, user_keys = self.owners[place]
        key = user_keys[self.random.random() < 0.3]
        start = self.some_time()
        kind = self.random.choices(("chat", "completion", "embedding"), (75, 15, 10))[0]
        if kind == "chat":
            self.write_chat(user, key, start)
        else:
            self.write_plain(user, key, start, kind)

    def some_time(self) -> datetime:
        """Days fill one after the other, most of them in the afternoon."""
        day = int(self.plan.days * self.done / self.plan.completions)
        seconds = min(max(self.random.gauss(50_000, 15_000), 0), 86_000)
        time = self.first_day.replace(hour=0, minute=0, second=0) + timedelta(day, seconds)
        return min(time, timezone.now() - timedelta(minutes=30))

    # ---- requests -------------------------------------------------------------------------------

    def write_plain(self, user: int, key: int, time: datetime, kind: str) -> None:
        prompt, answer = self.text(3), self.text(6)
        output = [{"text": answer, "finish_reason": "stop"}] if kind == "completion" else []
        said = answer if output else ""
        pk = self.write_completion(user, key, time, kind, prompt, said, None, None)
        self.rows["contents"].append(
            (pk, '{"temperature": 0.2}', _json(prompt), _json(output)),
        )

    def write_chat(self, user: int, key: int, time: datetime) -> None:
        """A tree: each turn is one question and one answer; some answers are made again."""
        conversation = self.take(Conversation)
        model = self.random.choices(MODELS, MODEL_WEIGHTS)[0]
        begun, history, parent, depth, chain_hash = time, "", None, 0, chain.root(user)
        turns = 1 + int(self.random.expovariate(0.4))
        title = ""
        for turn in range(min(turns, 30)):
            question = self.text(1)
            title = title or title_of([NewMessage("user", question)])
            chain_hash = chain.link(chain_hash, "user", "", question)
            head = self.write_message(
                conversation, parent, depth, "user", question, chain_hash, time, None, ""
            )
            depth += 1
            history += question
            answers = []
            for _ in range(1 + (turn > 0 and self.random.random() < 0.06)):
                answer = self.text(5)
                pk = self.write_completion(
                    user, key, time, "chat", history, answer, conversation, head, model
                )
                self.rows["contents"].append((pk, '{"temperature": 0.2}', None, "[]"))
                below = chain.link(chain_hash, "assistant", "", answer)
                answers.append(
                    (
                        self.write_message(
                            conversation, head, depth, "assistant", answer, below, time, pk, "stop"
                        ),
                        below,
                        answer,
                    )
                )
                time += timedelta(seconds=self.random.uniform(10, 400))
            parent, chain_hash, answer = self.random.choice(answers)
            depth += 1
            history += answer
            if self.done >= self.plan.completions:
                break
        self.rows["conversations"].append(
            (
                conversation,
                self.public_id("conv_"),
                user,
                key,
                title,
                _time(begun),
                _time(time),
            )
        )

    def write_completion(
        self,
        user: int,
        key: int,
        time: datetime,
        kind: str,
        prompt: str,
        answer: str,
        conversation: int | None,
        head: int | None,
        model: str = MODELS[0],
    ) -> int:
        pk = self.take(Completion)
        status = self.random.choices(STATUSES, STATUS_WEIGHTS)[0]
        prompt_tokens, tokens = len(prompt) // 4 + 12, len(answer) // 4
        first_token_ms = 20 + prompt_tokens // 4 if answer else None
        duration_ms = 30 + prompt_tokens // 4 + tokens * 15
        prefix = {"chat": "chatcmpl-", "completion": "cmpl-", "embedding": "embd-"}[kind]
        self.rows["completions"].append(
            (
                *(pk, self.public_id(prefix), kind, user, key, conversation, head, model, status),
                "stop" if status == "completed" and answer else "",
                self.random.random() < 0.6,
                *(prompt_tokens, tokens, prompt_tokens * 3 // 4 if head and pk % 3 else 0),
                _time(time),
                _time(time + timedelta(milliseconds=duration_ms)),
                *(first_token_ms, None if status == "interrupted" else duration_ms),
                *(f"req_{self.random.getrandbits(96):024x}", ERRORS.get(status, "")),
                kind == "chat",
            )
        )
        self.done += 1
        return pk

    def write_message(
        self,
        conversation: int,
        parent: int | None,
        depth: int,
        role: str,
        text: str,
        chain_hash: str,
        time: datetime,
        completion: int | None,
        finish_reason: str,
    ) -> int:
        pk = self.take(Message)
        self.rows["messages"].append(
            (
                *(pk, self.public_id("msg_"), conversation, parent, depth, role, _json(text)),
                *(chain_hash, completion, None if completion is None else 0, finish_reason),
                _time(time),
            )
        )
        return pk

    # ---- values ---------------------------------------------------------------------------------

    def take(self, model: Any) -> int:
        pk = self.next_pk[model]
        self.next_pk[model] += 1
        return pk

    def public_id(self, prefix: str) -> str:
        return prefix + "".join(self.random.choices(ALPHABET, k=LENGTH))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _time(time: datetime) -> str:
    """As SQLite keeps times, and as PostgreSQL reads them in a session in UTC."""
    return f"{time:%Y-%m-%d %H:%M:%S.%f}"
