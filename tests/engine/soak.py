"""Thousands of random requests through an engine whose cache is always too small."""

import gc
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from driving import Reference, Told, ask, drive, embed, make_engine, some_prompt

from llmapi.engine.messages import (
    EmbedRequest,
    Finish,
    GenerateRequest,
    RequestFailed,
    SamplingParams,
    TokenLogprob,
)
from llmapi.engine.pace import Pace
from llmapi.engine.sequence import Sequence

CACHE_TOKENS = 384
WAITING = 40
"""Requests that are in the engine at a time, at most."""
SURE_GAP = 1e-3
"""The best token's lead in logits below which rounding may decide between the best two."""


@dataclass
class Report:
    requests: int
    aborted: set[str] = field(default_factory=set)
    preempted: int = 0
    cached_tokens: int = 0
    compared: int = 0
    searches: int = 0
    """Of the compared answers, those of beam searches."""
    skipped: int = 0
    """Greedy answers that part from those alone at a place where two tokens are all but equal."""
    told: Told = field(default_factory=Told)

    def __str__(self) -> str:
        return (
            f"{self.requests} requests in {len(self.told.steps)} steps: {len(self.aborted)} aborted"
            f", {self.preempted} preemptions, {self.cached_tokens} prompt tokens from the cache; "
            f"{self.compared} greedy answers equal those alone ({self.searches} of them of beam "
            f"searches), {self.skipped} too close to call"
        )


class Soak:
    def __init__(self, directory: Path, reference: Reference, *, requests: int, seed: int) -> None:
        self._chance = random.Random(seed)
        self._now = 0.0
        self._engine = make_engine(directory, kv_cache_tokens=CACHE_TOKENS, context_length=400)
        # Admission without its margin, so that preemption happens all the time.
        self._engine._scheduler._grows = lambda sequence: False
        self._pace_it()
        self._reference = reference
        self._alone = make_engine(directory)
        self._answers: dict[tuple[object, ...], list[tuple[list[int], str]]] = {}
        self._sent: dict[str, GenerateRequest | EmbedRequest] = {}
        self._choices: dict[tuple[str, int], Sequence] = {}
        """Greedy choices whose ends are not compared yet."""
        self.report = Report(requests)

    def _pace_it(self) -> None:
        """Steps of random cost, so that all kinds of budgets occur."""

        def clock() -> float:
            self._now += self._chance.expovariate(1)
            return self._now

        pace = Pace(2.25, clock=clock)
        self._engine._pace = self._engine._scheduler._dealer._pace = pace

    def run(self) -> Report:
        """Raises AssertionError or RuntimeError at the first thing that is not as it should be."""
        baseline = self._engine.free_blocks
        while len(self._sent) < self.report.requests or self._engine.has_work:
            self._send_some()
            self._abort_one()
            self._step()
        assert self._engine.free_blocks == baseline
        self._check_nothing_is_left()
        self._check_every_end()
        return self.report

    # ---- what clients do -------------------------------------------------------------------------

    def _send_some(self) -> None:
        for _ in range(self._chance.choice((0, 0, 1, 3, 12))):
            if len(self._sent) < self.report.requests and len(self._engine._live) < WAITING:
                self._send(f"r{len(self._sent)}")

    def _send(self, name: str) -> None:
        request = random_request(self._chance, name)
        self._sent[name] = request
        self._engine.add(request)
        if isinstance(request, EmbedRequest) or request.params.do_sample or request.best_of:
            return
        for sequence in self._engine._live[name]:
            for index in range(request.n if request.params.num_beams > 1 else 1):
                self._choices[name, sequence.index + index] = sequence

    def _abort_one(self) -> None:
        if self._engine._live and self._chance.random() < 0.02:
            name = self._chance.choice(list(self._engine._live))
            self._engine.abort(name)
            self.report.aborted.add(name)
            for choice in [choice for choice in self._choices if choice[0] == name]:
                if choice not in self.report.told.finished:
                    del self._choices[choice]

    # ---- what the engine does --------------------------------------------------------------------

    def _step(self) -> None:
        scheduler = self._engine._scheduler
        before = set(scheduler._running)
        output = self._engine.step()
        self.report.preempted += len(before & set(scheduler._waiting))
        scheduler.check()
        for event in output.events:
            assert event.request_id not in self.report.aborted, "told of what was aborted"
            assert not isinstance(event, RequestFailed), event
        self.report.told.hear(output)
        self._drop_what_need_not_be_kept()
        for choice in [c for c in self._choices if c in self.report.told.finished]:
            self._compare(choice, self._choices.pop(choice))
        assert len(self.report.told.steps) < 40 * self.report.requests, "it does not end"

    def _drop_what_need_not_be_kept(self) -> None:
        """So that memory that grows is the engine's."""
        told = self.report.told
        output = told.steps[-1]
        told.steps[-1] = replace(output, events=())
        for event in output.events:
            if isinstance(event, Finish):
                self._check_logprobs(event, told.logprobs.pop((event.request_id, event.index), []))

    def _check_logprobs(self, finish: Finish, logprobs: list[TokenLogprob]) -> None:
        request = self._sent[finish.request_id]
        assert isinstance(request, GenerateRequest)
        asked = request.params.logprobs is not None
        assert len(logprobs) <= finish.completion_tokens * asked
        if request.params.prompt_logprobs:
            choice = (finish.request_id, finish.index)
            scored = self.report.told.prompt_logprobs.pop(choice)
            assert [one.token for one in scored] == list(request.prompts[0])

    def _compare(self, choice: tuple[str, int], sequence: Sequence) -> None:
        request = self._sent[choice[0]]
        assert isinstance(request, GenerateRequest)
        searched = request.params.num_beams > 1
        alone = self._answers_alone(request)
        tokens, text = alone[choice[1] if searched else 0]
        if searched:
            same = self.report.told.text(*choice) == text
        else:
            mine = sequence.tokens[sequence.prompt_tokens :]
            same = mine == tokens
            assert not same or self.report.told.text(*choice) == text
        self.report.compared += same
        self.report.searches += same and searched
        self.report.skipped += not same
        if not (same or searched or changes_logits(request.params)):
            gap = self._gap(request, mine, tokens)
            assert gap < SURE_GAP, f"{choice} parts from the answer alone, at a gap of {gap}"

    def _answers_alone(self, request: GenerateRequest) -> list[tuple[list[int], str]]:
        """Tokens and text of each choice; of a search only the texts."""
        n = request.n if request.params.num_beams > 1 else 1
        key = (request.prompts, request.params, n)
        if key not in self._answers:
            name = f"alone{len(self._answers)}"  # a user of its own: nothing of it is cached
            self._alone.add(GenerateRequest(name, name, request.prompts, request.params, n))
            (sequence,) = self._alone._live[name]
            told = drive(self._alone)
            tokens = sequence.tokens[sequence.prompt_tokens :]
            self._answers[key] = [(tokens, told.text(name, index)) for index in range(n)]
        return self._answers[key]

    def _gap(self, request: GenerateRequest, mine: list[int], alone: list[int]) -> float:
        """Between the two tokens at the first place where two answers differ."""
        place = next(i for i, (a, b) in enumerate(zip(mine, alone, strict=False)) if a != b)
        before = [*request.prompts[0], *mine[:place]]
        with torch.inference_mode():
            logits = self._reference.model(torch.tensor([before])).logits[0, -1]
        return float((logits[mine[place]] - logits[alone[place]]).abs())

    # ---- the end ---------------------------------------------------------------------------------

    def _check_nothing_is_left(self) -> None:
        engine, scheduler = self._engine, self._engine._scheduler
        assert not scheduler.running
        assert not scheduler.waiting
        assert not scheduler.prefixes._expected
        assert not engine._live
        assert not engine._searches
        assert not scheduler._families
        assert not engine._embedder._sums
        assert not engine._sampler._penalties
        assert not self._choices
        gc.collect()
        assert not any(type(thing) is Sequence for thing in gc.get_objects())

    def _check_every_end(self) -> None:
        """Everyone who was not aborted got all of its choices or vectors, and nothing else."""
        told = self.report.told
        for name, request in self._sent.items():
            if name in self.report.aborted:
                continue
            if isinstance(request, EmbedRequest):
                count = len(request.inputs)
                for index in range(count):
                    vector = self._reference.vector(list(request.inputs[index]))
                    assert torch.allclose(told.vectors[name, index], vector, atol=1e-4)
            else:
                count = len(request.prompts) * request.n
                for index in range(count):
                    self._check_choice(request, name, index)
        self._check_nobody_else_was_told()

    def _check_choice(self, request: GenerateRequest, name: str, index: int) -> None:
        told, params = self.report.told, request.params
        finish = told.finished[name, index]
        assert min(1, params.max_tokens) <= finish.completion_tokens <= params.max_tokens
        self.report.cached_tokens += finish.cached_tokens
        text = told.text(name, index)
        assert not any(stop in text for stop in params.stop)

    def _check_nobody_else_was_told(self) -> None:
        told = self.report.told
        ended = set(told.finished) | set(told.vectors)
        wanted = {
            (name, index)
            for name, request in self._sent.items()
            for index in range(
                len(request.inputs)
                if isinstance(request, EmbedRequest)
                else len(request.prompts) * request.n
            )
        }
        assert ended <= wanted
        assert {choice for choice in wanted if choice[0] not in self.report.aborted} <= ended


def random_request(chance: random.Random, name: str) -> GenerateRequest | EmbedRequest:
    user = f"u{chance.choice((0, 0, 0, 1, 1, 2, 3))}"
    prompt = _random_prompt(chance)
    kind = chance.random()
    if kind < 0.1:
        return embed(name, *[prompt] * chance.choice((1, 2)), user=user)
    if kind < 0.13:
        echo = {"max_tokens": 0, "logprobs": 2, "prompt_logprobs": True}
        return ask(name, prompt, user=user, **echo)
    if kind < 0.23:
        return _random_search(chance, name, prompt, user)
    params: dict[str, object] = {"max_tokens": chance.choice((1, 10, 40, 90, 90))}
    n, best_of = chance.choice((1, 1, 1, 1, 2, 4)), None
    if kind < 0.55:
        params["stop"] = chance.choice(((), ("the", "qu")))
    else:
        params |= {
            "do_sample": True,
            "temperature": chance.choice((0.0, 0.2, 1.0, 1.9)),
            "top_p": chance.choice((1.0, 0.9, 0.1)),
            "top_k": chance.choice((0, 1, 40)),
            "min_p": chance.choice((0.0, 0.0, 0.1)),
            "seed": chance.choice((None, 5, -1, 2**63)),
            "stop": chance.choice(((), ("e",), ("the", "qu"))),
            "logprobs": chance.choice((None, None, 0, 3)),
            "prompt_logprobs": chance.random() < 0.05,
        }
        best_of = n + 1 if chance.random() < 0.1 else None
    if chance.random() < 0.3:
        params |= _random_ends(chance) | _random_penalties(chance)
    return ask(name, prompt, user=user, n=n, best_of=best_of, **params)


def _random_search(
    chance: random.Random, name: str, prompt: list[int], user: str
) -> GenerateRequest:
    beams = chance.choice((2, 2, 3, 4))
    params: dict[str, object] = {
        "max_tokens": chance.choice((1, 10, 40)),
        "num_beams": beams,
        "do_sample": chance.random() < 0.4,
        "temperature": chance.choice((0.5, 1.0, 1.9)),
        "top_p": chance.choice((1.0, 0.9)),
        "top_k": chance.choice((0, 40)),
        "min_p": chance.choice((0.0, 0.01)),
        "length_penalty": chance.choice((1.0, -1.0, 2.0)),
        "early_stopping": chance.choice((False, True, None)),
        "seed": chance.choice((None, 5)),
        "stop": chance.choice(((), (), ("e",), ("the", "qu"))),
    }
    if chance.random() < 0.5:
        params |= _random_ends(chance) | _random_penalties(chance)
    return ask(name, prompt, user=user, n=chance.choice((1, 1, 2, beams)), **params)


def _random_ends(chance: random.Random) -> dict[str, object]:
    return {
        "ignore_eos": chance.random() < 0.5,
        "min_tokens": chance.choice((0, 0, 1)),
        "stop_token_ids": chance.choice(((), (2,), tuple(range(50, 70)))),
    }


def _random_penalties(chance: random.Random) -> dict[str, object]:
    return {
        "repetition_penalty": chance.choice((1.0, 1.3)),
        "frequency_penalty": chance.choice((0.0, 0.4)),
        "presence_penalty": chance.choice((0.0, -0.4)),
        "logit_bias": chance.choice(((), ((2, 5.0),), ((9, -100.0), (11, 3.0)))),
    }


def changes_logits(params: SamplingParams) -> bool:
    """Whether the best token is another than the model's own: then its lead says nothing."""
    penalties = (params.repetition_penalty, params.frequency_penalty, params.presence_penalty)
    return penalties != (1.0, 0.0, 0.0) or bool(params.logit_bias or params.min_tokens)


def _random_prompt(chance: random.Random) -> list[int]:
    """One of a few beginnings, then one of a few ends: chats with the same system prompt."""
    beginning = some_prompt(chance.randrange(4), chance.choice((0, 0, 16, 40, 100)))
    return beginning + some_prompt(10 + chance.randrange(12), chance.choice((1, 5, 16, 30)))
