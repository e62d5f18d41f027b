"""How the tests speak to an engine without a pipe, and to transformers for the right answer."""

import codecs
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from llmapi.engine.config import EngineConfig
from llmapi.engine.engine import Engine
from llmapi.engine.loader import load
from llmapi.engine.messages import (
    EmbedRequest,
    Finish,
    GenerateRequest,
    PromptLogprobs,
    RequestFailed,
    SamplingParams,
    StepOutput,
    TextDelta,
    TokenLogprob,
)

Choice = tuple[str, int]


@dataclass
class Told:
    """Everything that an engine has told, by request and choice."""

    deltas: dict[Choice, list[str]] = field(default_factory=dict)
    finished: dict[Choice, Finish] = field(default_factory=dict)
    finished_at: dict[Choice, int] = field(default_factory=dict)
    started_at: dict[Choice, int] = field(default_factory=dict)
    vectors: dict[Choice, torch.Tensor] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    logprobs: dict[Choice, list[TokenLogprob]] = field(default_factory=dict)
    prompt_logprobs: dict[Choice, tuple[TokenLogprob, ...]] = field(default_factory=dict)
    delta_tokens: Counter[Choice] = field(default_factory=Counter)
    steps: list[StepOutput] = field(default_factory=list)

    def hear(self, output: StepOutput) -> None:
        self.steps.append(output)
        for event in output.events:
            if isinstance(event, RequestFailed):
                self.failed[event.request_id] = event.message
                continue
            choice = (event.request_id, event.index)
            if isinstance(event, TextDelta):
                assert event.text or event.logprobs
                assert choice not in self.finished
                self.logprobs.setdefault(choice, []).extend(event.logprobs)
                self.started_at.setdefault(choice, len(self.steps))
                self.deltas.setdefault(choice, []).append(event.text)
                self.delta_tokens[choice] += event.tokens
            elif isinstance(event, Finish):
                assert choice not in self.finished
                self.finished[choice] = event
                self.finished_at[choice] = len(self.steps)
            elif isinstance(event, PromptLogprobs):
                assert choice not in self.started_at
                assert choice not in self.prompt_logprobs
                self.prompt_logprobs[choice] = event.logprobs
            else:
                vector = torch.frombuffer(bytearray(event.vector), dtype=torch.float32)
                self.vectors[choice] = vector

    def text(self, request_id: str, index: int = 0) -> str:
        return "".join(self.deltas.get((request_id, index), []))


def drive(
    engine: Engine,
    *requests: GenerateRequest | EmbedRequest,
    told: Told | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> Told:
    """Add the requests and step until nothing is left to do."""
    told = told or Told()
    for request in requests:
        engine.add(request)
    while engine.has_work:
        told.hear(engine.step())
        after_step()
    return told


def make_engine(directory: Path, **overrides: Any) -> Engine:
    """Unpaced unless told otherwise: what a step takes in must not depend on the clock."""
    values = {"kv_cache_tokens": 4096, "max_batch": 8, "step_tokens": 64, "threads": 1}
    values["prompt_stretch"] = None
    cache_dir = str(directory / "converted")
    config = EngineConfig(base_model=str(directory), cache_dir=cache_dir, **(values | overrides))
    return load(config).engine


def ask(
    request_id: str,
    prompt: list[int],
    *,
    user: str = "u",
    n: int = 1,
    best_of: int | None = None,
    shared_tokens: int = 0,
    adapter: str = "",
    **params: Any,
) -> GenerateRequest:
    """Greedy unless told otherwise."""
    values = {"max_tokens": 16, "do_sample": False} | params
    sampling = SamplingParams(**values)
    return GenerateRequest(
        request_id, user, (tuple(prompt),), sampling, n, best_of, shared_tokens, adapter
    )


def embed(request_id: str, *inputs: list[int], user: str = "u") -> EmbedRequest:
    return EmbedRequest(request_id, user, tuple(map(tuple, inputs)))


class Reference:
    """The same model through plain transformers."""

    def __init__(self, directory: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        added = self.tokenizer.added_tokens_decoder
        self._special = {number for number, token in added.items() if token.special}
        self._alphabet = {letter: byte for byte, letter in bytes_to_unicode().items()}

    def continue_text(self, prompt: list[int], max_tokens: int, **kwargs: Any) -> tuple[str, int]:
        """Text and number of new tokens."""
        tokens = self.generate(prompt, max_tokens, **({"do_sample": False} | kwargs))[0]
        return self.text(tokens), len(tokens)

    def text(self, tokens: list[int]) -> str:
        """As the engine sends it: NUL replaced, half a character at the end dropped."""
        pieces = self.tokenizer.convert_ids_to_tokens(
            [token for token in tokens if token not in self._special]
        )
        data = bytes(self._alphabet[letter] for piece in pieces for letter in piece)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        return decoder.decode(data).replace("\0", "\ufffd")

    def generate(self, prompt: list[int], max_tokens: int, **kwargs: Any) -> list[list[int]]:
        """New tokens of each sequence returned, without what follows the end token."""
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            output = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, **kwargs
            )
        eos = self.tokenizer.eos_token_id
        answers = [row[len(prompt) :] for row in output.tolist()]
        return [row[: row.index(eos) + 1] if eos in row else row for row in answers]

    def logprobs(self, tokens: list[int]) -> torch.Tensor:
        """`[tokens, vocab]`: of what comes after each of them."""
        with torch.inference_mode():
            logits: torch.Tensor = self.model(torch.tensor([tokens])).logits[0]
            return logits.log_softmax(-1)

    def vector(self, tokens: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            output = self.model(torch.tensor([tokens]), output_hidden_states=True)
        return torch.nn.functional.normalize(output.hidden_states[-1][0].mean(0), dim=-1)


def packed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """What torch's `varlen_attn` means, one sequence after the other: its stand-in on a CPU, and
    what it is compared with on a GPU."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    out = torch.full_like(query, torch.nan)
    bounds = zip(cu_seq_q.tolist(), cu_seq_k.tolist(), strict=True)
    first, begin = next(bounds)
    for last, end in bounds:
        count, length = last - first, end - begin
        assert 0 < count <= min(length, max_q)
        assert length <= max_k
        own = torch.arange(length - count, length)[:, None]
        behind = (own - torch.arange(length)).to(query.device)
        hidden = torch.zeros_like(behind, dtype=torch.bool)
        if window_size[1] >= 0:
            hidden |= behind < -window_size[1]
        if window_size[0] >= 0:
            hidden |= behind > window_size[0]
        group = query.shape[1] // key.shape[1]
        q = query[first:last].transpose(0, 1)
        k, v = (x[begin:end].transpose(0, 1).repeat_interleave(group, 0) for x in (key, value))
        weights = (q @ k.transpose(1, 2) * scale).masked_fill(hidden, -torch.inf).softmax(-1)
        out[first:last] = (weights @ v).transpose(0, 1)
        first, begin = last, end
    return out


@torch.inference_mode()
def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """The next `count` tokens, as transformers' `generate` finds them."""
    ids = torch.tensor([prompt])
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=2,
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


def some_prompt(seed: int, length: int, vocab: int = 400) -> list[int]:
    """Ordinary tokens, no special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocab, (length,), generator=generator).tolist()
