"""Thousands of random requests through an engine whose cache is always too small."""

import gc
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from driving import Reference, Told, ask, drive, embed, make_engine, some_prompt

from llmapi.engine.messages import EmbedRequest, GenerateRequest, RequestFailed
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
    skipped: int = 0
    """Greedy answers that part from those alone at a place where two tokens are all but equal."""
    told: Told = field(default_factory=Told)

    def __str__(self) -> str:
        return (
            f"{self.requests} requests in {len(self.told.steps)} steps: {len(self.aborted)} aborted"
            f", {self.preempted} preemptions, {self.cached_tokens} prompt tokens from the cache; "
            f"{self.compared} greedy answers equal those alone, {self.skipped} too close to call"
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
        self._answers: dict[tuple[object, ...], tuple[list[int], str]] = {}
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
        self._engine._pace = self._engine._scheduler._pace = pace

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
        for sequence in self._engine._live.get(name, ()):
            params = sequence.params
            if params is not None and not params.do_sample:
                self._choices[name, sequence.index] = sequence

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
        self.report.told.steps[-1] = replace(output, events=())  # or they would fill the memory
        for choice in [c for c in self._choices if c in self.report.told.finished]:
            self._compare(choice, self._choices.pop(choice))
        assert len(self.report.told.steps) < 40 * self.report.requests, "it does not end"

    def _compare(self, choice: tuple[str, int], sequence: Sequence) -> None:
        request = self._sent[choice[0]]
        assert isinstance(request, GenerateRequest)
        tokens, text = self._answer_alone(request)
        mine = sequence.tokens[sequence.prompt_tokens :]
        if mine != tokens:
            self.report.skipped += 1
            gap = self._gap(request, mine, tokens)
            assert gap < SURE_GAP, f"{choice} parts from the answer alone, at a gap of {gap}"
            return
        self.report.compared += 1
        assert self.report.told.text(*choice) == text

    def _answer_alone(self, request: GenerateRequest) -> tuple[list[int], str]:
        key = (request.prompts, request.params)
        if key not in self._answers:
            name = f"alone{len(self._answers)}"  # a user of its own: nothing of it is cached
            lone = GenerateRequest(name, name, request.prompts, request.params)
            self._alone.add(lone)
            (sequence,) = self._alone._live[name]
            text = drive(self._alone).text(name)
            self._answers[key] = (sequence.tokens[sequence.prompt_tokens :], text)
        return self._answers[key]

    def _gap(self, request: GenerateRequest, mine: list[int], alone: list[int]) -> float:
        """Between the two tokens at the first place where two answers differ."""
        if request.params.repetition_penalty != 1.0:
            raise AssertionError(f"{request.request_id} parts from the answer alone")
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
        assert not engine._sums
        assert not engine._sampler._states
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
                    finish = told.finished[name, index]
                    assert 1 <= finish.completion_tokens <= request.params.max_tokens
                    self.report.cached_tokens += finish.cached_tokens
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
    if kind < 0.11:
        return ask(name, prompt, user=user, max_tokens=5, num_beams=2)
    params: dict[str, object] = {"max_tokens": chance.choice((1, 10, 40, 90, 90))}
    if kind < 0.5:
        params |= {"stop": chance.choice(((), ("the", "qu")))}
    else:
        params |= {
            "do_sample": True,
            "temperature": chance.choice((0.0, 0.2, 1.0, 1.9)),
            "top_p": chance.choice((1.0, 0.9, 0.1)),
            "top_k": chance.choice((0, 1, 40)),
            "repetition_penalty": chance.choice((1.0, 1.3)),
            "seed": chance.choice((None, 5, -1, 2**63)),
            "stop": chance.choice(((), ("e",), ("the", "qu"))),
            "prompt_logprobs": chance.random() < 0.05,
        }
    return ask(name, prompt, user=user, n=chance.choice((1, 1, 1, 1, 2, 4)), **params)


def _random_prompt(chance: random.Random) -> list[int]:
    """One of a few beginnings, then one of a few ends: chats with the same system prompt."""
    beginning = some_prompt(chance.randrange(4), chance.choice((0, 0, 16, 40, 100)))
    return beginning + some_prompt(10 + chance.randrange(12), chance.choice((1, 5, 16, 30)))
