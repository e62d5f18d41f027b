"""From what a client sent to the sampling parameters in force."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmapi.backends.base import GenerationOptions
from llmapi.engine.messages import SamplingParams
from llmapi.errors import InvalidRequest

SEED_DEFAULTS = {"temperature": 0.2, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1}
"""Those of the seed's second generation; the model's own and the operator's win over them."""

PASSED_ON = (
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "stop_token_ids",
    "min_tokens",
    "ignore_eos",
    "logprobs",
    "length_penalty",
)
"""Options that are neutral when they are left out."""


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What fills the gaps. Order: the operator's setting, `generation_config.json`, the seed's."""

    max_tokens: int = 512
    """0: until the context is full."""

    operator: Mapping[str, float | int | None] = field(default_factory=dict)
    model: Mapping[str, float | int | bool] = field(default_factory=dict)

    def value(self, name: str) -> float:
        for source in (self.operator, self.model, SEED_DEFAULTS):
            value = source.get(name)
            if value is not None:
                return value
        raise KeyError(name)

    @property
    def values(self) -> dict[str, float]:
        """What a request that says nothing is answered with."""
        return {**{name: self.value(name) for name in SEED_DEFAULTS}, "max_tokens": self.max_tokens}

    def resolve(
        self,
        options: GenerationOptions,
        room: int,
        template_stops: tuple[str, ...] = (),
        template_stop_ids: tuple[int, ...] = (),
    ) -> SamplingParams:
        """The parameters in force for a prompt that leaves `room` tokens of the context (at least
        1).

        `temperature` 0 means greedy, as in OpenAI's API; so does `top_p` 0.
        """

        def chosen(name: str) -> Any:
            given = getattr(options, name)
            return given if given is not None else self.value(name)

        temperature, top_p = float(chosen("temperature")), float(chosen("top_p"))
        wanted = options.max_tokens
        if wanted is None:
            wanted = self.max_tokens or room
        sent = {name: getattr(options, name) for name in PASSED_ON}
        if template_stop_ids and not options.ignore_eos:
            ends = (*(options.stop_token_ids or ()), *template_stop_ids)
            sent["stop_token_ids"] = tuple(dict.fromkeys(ends))
        return SamplingParams(
            max_tokens=min(wanted, room),
            temperature=temperature,
            top_p=top_p or 1.0,
            top_k=int(chosen("top_k")),
            repetition_penalty=float(chosen("repetition_penalty")),
            do_sample=self.samples(options) and temperature > 0 and top_p > 0,
            num_beams=options.num_beams or 1,
            seed=options.seed,
            stop=tuple(dict.fromkeys((*(options.stop or ()), *template_stops))),
            prompt_logprobs=bool(options.echo) and options.logprobs is not None,
            early_stopping=None
            if options.early_stopping == "never"
            else options.early_stopping is True,
            **{name: value for name, value in sent.items() if value is not None},
        )

    def samples(self, options: GenerationOptions) -> bool:
        """Left out, `do_sample` is true as in the seed, unless the model's file says otherwise and
        the client did not ask for a temperature."""
        if options.do_sample is not None:
            return options.do_sample
        return options.temperature is not None or bool(self.model.get("do_sample", True))


def check_against_model(params: SamplingParams, vocab_size: int) -> None:
    """What only the model can tell of parameters that are right in themselves. Raises
    InvalidRequest."""
    for name, tokens in (
        ("logit_bias", [token for token, _ in params.logit_bias]),
        ("stop_token_ids", params.stop_token_ids),
    ):
        for token in tokens:
            if token >= vocab_size:
                raise InvalidRequest(
                    f"Token id {token} is not in the vocabulary (0 to {vocab_size - 1}).",
                    param=name,
                )
    if params.min_tokens > params.max_tokens:
        raise InvalidRequest(
            f"The answer may have {params.max_tokens} tokens at most, so it cannot have "
            f"{params.min_tokens} at least: lower 'min_tokens', or raise 'max_tokens' if the "
            "context has room.",
            param="min_tokens",
        )
