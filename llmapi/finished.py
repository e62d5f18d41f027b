"""A request of the door that is over: one line in the log, and what is counted of it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conversations.idempotency import Answered
from llmapi import metrics
from llmapi.completions import Asker
from llmapi.outcomes import Outcome

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finished:
    """Without a word of what was said."""

    request_id: str
    route: str
    status: int | None
    """Of the answer; None: the client left before its headers were sent."""

    ending: str
    """As its row says; `replayed` if an earlier answer was sent again; `refused` if it was not
    accepted."""

    took_s: float
    asked_at: float
    """When its body was complete, on the monotonic clock."""

    asker: Asker | None
    outcome: Outcome | None
    answered: Answered | None
    """The earlier answer."""

    ids_of_client: Mapping[str, str]

    def log(self) -> None:
        logger.info(
            "POST %s %s %s, %s",
            self.route,
            self.status or "-",
            self.ending,
            ", ".join(self.words()),
            extra={"request_id": self.request_id, "facts": self.facts()},
        )

    @property
    def took_ms(self) -> int:
        return round(self.took_s * 1000)

    def words(self) -> list[str]:
        asker, outcome = self.asker, self.outcome
        words = [f"{self.took_ms} ms"]
        if self.answered is not None:
            words.append(f"answer of {self.answered.completion_id}")
        if outcome is not None:
            words.append(f"{outcome.prepared.prompt_tokens}+{outcome.completion_tokens} tokens")
        if asker is not None:
            key = "no key" if asker.api_key_id is None else f"key {asker.api_key_id}"
            words += [f"user {asker.user_id}", key]
        return words

    def facts(self) -> dict[str, Any]:
        """The same and more, for machines."""
        asker, outcome = self.asker, self.outcome
        facts: dict[str, Any] = {
            "method": "POST",
            "route": self.route,
            "status": self.status,
            "outcome": self.ending,
            "duration_ms": self.took_ms,
            **self.ids_of_client,
        }
        if self.answered is not None:
            facts["completion_id"] = self.answered.completion_id
        if outcome is not None:
            facts |= {
                "completion_id": outcome.public_id,
                "model": outcome.prepared.model,
                "prompt_tokens": outcome.prepared.prompt_tokens,
                "cached_tokens": outcome.cached_tokens,
                "completion_tokens": outcome.completion_tokens,
                "first_token_ms": outcome.first_token_ms,
            }
        if asker is not None:
            facts |= {"user_id": asker.user_id, "api_key_id": asker.api_key_id}
        return facts

    def count(self) -> None:
        outcome, status = self.outcome, metrics.status_class(self.status)
        metrics.requests.labels("POST", self.route, status, self.ending).inc()
        metrics.request_s.labels(self.route).observe(self.took_s)
        if outcome is None:
            return
        admission_s = outcome.started - self.asked_at
        metrics.admission_s.labels(self.route).observe(admission_s)
        if outcome.first_token_ms is not None:
            first_token_s = admission_s + outcome.first_token_ms / 1000
            metrics.first_token_s.labels(self.route).observe(first_token_s)
        model = outcome.prepared.model
        metrics.prompt_tokens.labels(model).inc(outcome.prepared.prompt_tokens)
        metrics.cached_tokens.labels(model).inc(outcome.cached_tokens)
        metrics.completion_tokens.labels(model).inc(outcome.completion_tokens)
