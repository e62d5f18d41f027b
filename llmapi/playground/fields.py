"""The parameters that the playground's form offers, in its order."""

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _

SAFE_INTEGER = 2**53 - 1
"""The greatest that JavaScript holds exactly."""


@dataclass(frozen=True)
class NumberField:
    """One number of a request, by its name in the API. default: shown where the model brings none;
    step: "any", or 1 for an integer."""

    name: str
    label: Any
    help: Any
    minimum: float
    maximum: float
    step: str = "any"
    default: Any = ""


FIELDS = (
    NumberField(
        "temperature",
        _("Temperature"),
        _("Higher is more varied, 0 always takes the most probable token."),
        0,
        2,
    ),
    NumberField(
        "max_tokens",
        _("Longest answer"),
        _("In tokens."),
        1,
        2**31 - 1,
        step="1",
        default=_("full"),
    ),
    NumberField("top_p", "Top-p", _("Draws from the most probable tokens up to this sum."), 0, 1),
    NumberField(
        "top_k",
        "Top-k",
        _("Draws from so many of the most probable tokens; 0: from all."),
        0,
        1_000_000,
        step="1",
    ),
    NumberField(
        "repetition_penalty",
        _("Repetition penalty"),
        _("Above 1, what was said is less likely to be said again."),
        0.01,
        10,
    ),
    NumberField(
        "presence_penalty",
        _("Presence penalty"),
        _("Above 0, a token that the answer has already is less likely."),
        -2,
        2,
        default="0",
    ),
    NumberField(
        "frequency_penalty",
        _("Frequency penalty"),
        _("The same, for each time that the answer has it."),
        -2,
        2,
        default="0",
    ),
    NumberField(
        "seed",
        _("Seed"),
        _("The same seed gives the same answer."),
        -SAFE_INTEGER,
        SAFE_INTEGER,
        step="1",
        default=_("random"),
    ),
    NumberField(
        "num_beams",
        _("Beams"),
        _("More than 1: beam search with so many."),
        1,
        16,
        step="1",
        default="1",
    ),
)
