"""The ledger against the database: plain functions from both to the promises that were broken.

A rule is one function; `RULES` names those that hold after any history of kills.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from tests.chaos.ledger import Ledger, digest
from tests.serve.history import Stored, StoredCompletion, StoredMessage

WITH_A_KEY = "says with a key"
"""In what the client says when it sends an idempotency key."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise: which, of which request, and what was seen."""

    rule: str
    request: str
    seen: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.request}: {self.seen}"


Rule = Callable[[Ledger, Stored], Iterator[Violation]]


def violations(ledger: Ledger, stored: Stored) -> list[Violation]:
    """Every rule broken, in the order of the rules."""
    return [violation for rule in RULES for violation in rule(ledger, stored)]


def report(found: Iterable[Violation]) -> str:
    """How often each rule was broken, then each case."""
    found = list(found)
    if not found:
        return "no violations"
    counts = Counter(violation.rule for violation in found)
    head = ", ".join(f"{rule} ({count})" for rule, count in counts.items())
    return "\n  ".join([f"{len(found)} violations: {head}", *map(str, found)])


# ---- the rules ----------------------------------------------------------------------------------


def accepted_is_stored(ledger: Ledger, stored: Stored) -> Iterator[Violation]:
    rows = rows_by_request(stored)
    for request, told in ledger.told.items():
        ids = {row.public_id for row in rows.get(request, [])}
        if told.public_id not in (None, *ids) or not ids:
            seen = f"told {told.public_id}, stored {', '.join(ids) or 'nothing'}"
            yield Violation("accepted_is_stored", request, seen)


def accepted_is_stored_once(ledger: Ledger, stored: Stored) -> Iterator[Violation]:
    rows = rows_by_request(stored)
    for request in ledger.told:
        if len(found := rows.get(request, [])) > 1:
            yield Violation("accepted_is_stored_once", request, f"{len(found)} rows")


def finished_is_completed_with_its_text(ledger: Ledger, stored: Stored) -> Iterator[Violation]:
    rule = "finished_is_completed_with_its_text"
    rows = rows_by_request(stored)
    for told in ledger.finished:
        for row in rows.get(told.request, []):
            if row.status != "completed":
                yield Violation(rule, told.request, f"status {row.status}")
            elif [digest(text) for text in row.texts] != [told.finished]:
                yield Violation(rule, told.request, f"another text: {row.texts!r}")


def nothing_is_running(ledger: Ledger, stored: Stored) -> Iterator[Violation]:
    """To be asked when no request is under way."""
    for row in stored.completions:
        if row.status == "running":
            yield Violation("nothing_is_running", row.request_id, row.public_id)


def partial_text_is_of_the_same_answer(ledger: Ledger, stored: Stored) -> Iterator[Violation]:
    """Of a stream that broke off more or less may be stored than was received, nothing else."""
    rows = rows_by_request(stored)
    for told in ledger.broken:
        partial = told.partial or ""
        for row in rows.get(told.request, []):
            kept = "".join(row.texts)
            if not (kept.startswith(partial) or partial.startswith(kept)):
                seen = f"received {partial!r}, stored {kept!r}"
                yield Violation("partial_text_is_of_the_same_answer", told.request, seen)


def a_told_error_is_an_ended_row(ledger: Ledger, stored: Stored) -> Iterator[Violation]:
    """The web process lived on, so it has stored all that it sent, and a sentence why it ended."""
    rows = rows_by_request(stored)
    for told in ledger.broken:
        for row in rows.get(told.request, []):
            if told.error is None:
                continue
            seen = f"{told.error}; status {row.status}, error {row.error!r}"
            if row.status not in ("interrupted", "failed") or not row.error:
                yield Violation("a_told_error_is_an_ended_row", told.request, seen)
            elif not "".join(row.texts).startswith(told.partial or ""):
                seen = f"received {told.partial!r}, stored {row.texts!r}"
                yield Violation("a_told_error_is_an_ended_row", told.request, seen)


def what_was_asked_is_stored(ledger: Ledger, stored: Stored) -> Iterator[Violation]:
    """A prompt in its row; a chat as the path from its head to the root of its tree."""
    rows = rows_by_request(stored)
    messages = {message.pk: message for message in stored.messages}
    for request, told in ledger.told.items():
        for row in rows.get(request, []):
            asked = path_to(row, messages) if row.kind == "chat" else row.prompt
            if digest(asked) != told.asked:
                yield Violation("what_was_asked_is_stored", request, repr(asked)[:200])


def a_key_is_answered_once(ledger: Ledger, stored: Stored) -> Iterator[Violation]:
    """However often it was sent: there is one answer, and who was sent it again got the same."""
    rule = "a_key_is_answered_once"
    rows = {row.public_id: row for row in stored.completions}
    for again in ledger.replayed:
        row = rows.get(again.public_id)
        if row is None or row.prompt != again.said:
            yield Violation(rule, again.request, f"{again.public_id} is no answer to it")
        elif [digest(text) for text in row.texts] != [again.digest]:
            yield Violation(rule, again.request, f"another text than {row.texts!r}")
        for told in ledger.told.values():
            if told.said == again.said and told.finished not in (None, again.digest):
                yield Violation(rule, again.request, "another text than the first time")


def nothing_is_stored_twice(ledger: Ledger, stored: Stored) -> Iterator[Violation]:
    """Each user message and each prompt of the client is its own, so each is stored once; each
    answer belongs to one choice. (What was sent again with a key, because it had broken off, is
    answered once.)"""
    rule = "nothing_is_stored_twice"
    said = Counter(m.content for m in stored.messages if m.role == "user")
    said.update(
        row.prompt
        for row in stored.completions
        if row.kind == "completion" and (row.status == "completed" or WITH_A_KEY not in row.prompt)
    )
    for text, count in said.items():
        if count > 1:
            yield Violation(rule, "-", f"{count} times {text[:80]!r}")
    answers = Counter(
        (m.completion_id, m.choice_index) for m in stored.messages if m.role == "assistant"
    )
    for (completion, choice), count in answers.items():
        if count > 1 or completion is None:
            seen = f"{count} messages for choice {choice} of row {completion}"
            yield Violation(rule, "-", seen)


def refusals_are_unavailability(ledger: Ledger, stored: Stored) -> Iterator[Violation]:
    """While a server starts, 503; a client that does nothing wrong is told nothing else. (Who
    comes again too soon with a key: 409.)"""
    for (status, code), count in ledger.refused.items():
        if status != 503 and code != "idempotency_key_in_use":
            seen = f"{count} times {status} {code}"
            yield Violation("refusals_are_unavailability", "-", seen)


def everybody_is_answered(ledger: Ledger, stored: Stored) -> Iterator[Violation]:
    if ledger.silences:
        yield Violation("everybody_is_answered", "-", f"{ledger.silences} heard nothing")


RULES: tuple[Rule, ...] = (
    accepted_is_stored,
    accepted_is_stored_once,
    finished_is_completed_with_its_text,
    nothing_is_running,
    partial_text_is_of_the_same_answer,
    a_told_error_is_an_ended_row,
    what_was_asked_is_stored,
    a_key_is_answered_once,
    nothing_is_stored_twice,
    refusals_are_unavailability,
    everybody_is_answered,
)

HARM = {
    "lost": (
        "accepted_is_stored",
        "what_was_flushed_is_kept",
        "a_running_text_is_flushed",
        "what_was_asked_is_stored",
    ),
    "duplicated": (
        "accepted_is_stored_once",
        "nothing_is_stored_twice",
        "a_key_is_answered_once",
    ),
    "stuck": (
        "nothing_is_running",
        "left_running",
        "everybody_is_answered",
        "an_engines_death_is_told",
    ),
    "other text": (
        "finished_is_completed_with_its_text",
        "partial_text_is_of_the_same_answer",
        "a_told_error_is_an_ended_row",
    ),
    "otherwise wrong": ("refusals_are_unavailability", "all_finished", "still_alive"),
}
"""In the words of the promises, what a broken rule amounts to."""


def harm(found: Iterable[Violation]) -> dict[str, int]:
    """How many requests were lost, duplicated, ... ; each counts once for each of these."""
    of = {rule: name for name, rules in HARM.items() for rule in rules}
    harmed = {(of[v.rule], v.seen if v.request == "-" else v.request) for v in found}
    counts = Counter(name for name, _ in harmed)
    return {name: counts[name] for name in HARM}


def all_finished(ledger: Ledger) -> Iterator[Violation]:
    """For the client of a server that nobody kills: each of its requests came to its end."""
    for request, told in ledger.told.items():
        if told.finished is None:
            yield Violation("all_finished", request, f"broke off after {told.partial!r}"[:200])


def what_was_flushed_is_kept(flushed: Mapping[str, str], stored: Stored) -> Iterator[Violation]:
    """`flushed`: id -> the text that a process had stored of it when it died."""
    kept = {row.public_id: "".join(row.texts) for row in stored.completions}
    for public_id, text in flushed.items():
        if not kept.get(public_id, "").startswith(text):
            seen = f"was stored {text!r}, is now {kept.get(public_id)!r}"
            yield Violation("what_was_flushed_is_kept", public_id, seen)


def unkept_s(ledger: Ledger, stored: Stored) -> float:
    """How old the oldest text was that a client had of a broken stream, and that is not stored."""
    rows = rows_by_request(stored)
    return max(
        (
            told.unkept_s(len("".join(row.texts)))
            for told in ledger.broken
            for row in rows.get(told.request, [])
        ),
        default=0.0,
    )


def still_alive(ids: Iterable[str], stored: Stored) -> Iterator[Violation]:
    """Requests that a living process worked on, some time later."""
    statuses = {row.public_id: row.status for row in stored.completions}
    for public_id in ids:
        if statuses.get(public_id) not in ("running", "completed"):
            yield Violation("still_alive", public_id, f"status {statuses.get(public_id)}")


# ---- looking things up --------------------------------------------------------------------------


def rows_by_request(stored: Stored) -> dict[str, list[StoredCompletion]]:
    rows = defaultdict(list)
    for row in stored.completions:
        rows[row.request_id].append(row)
    return rows


def path_to(row: StoredCompletion, messages: dict[int, StoredMessage]) -> list[list[str]]:
    path = []
    pk = row.head_id
    while pk is not None:
        path.append([messages[pk].role, messages[pk].content])
        pk = messages[pk].parent_id
    return path[::-1]
