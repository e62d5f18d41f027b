"""The model that the benchmarks run: the embedded one, unless another is named."""

import json
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def model_directory(given: Path | None = None) -> Path:
    """A Hugging Face directory, which any server can load. The embedded model is converted first if
    that has not been done yet."""
    if given is not None:
        return given.resolve()
    from llmapi.engine.conversion import converted
    from llmapi.engine.embedded import embedded_model_path

    gguf = embedded_model_path()
    if gguf is None:
        raise SystemExit("The embedded model is not installed (requirements-model.txt).")
    return converted(gguf, PROJECT / "var" / "models", lambda progress: print(progress.text))


@dataclass(frozen=True)
class Shape:
    """A LLaMA-like model's size, from its config.json."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @classmethod
    def of(cls, directory: Path) -> "Shape":
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        heads = config["num_attention_heads"]
        return cls(
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"],
        )

    @property
    def layer_weights(self) -> int:
        """Weights that every token is multiplied with."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_weights(self) -> int:
        """Weights that only a token to be drawn is multiplied with."""
        return self.hidden * self.vocabulary

    @property
    def cached_values(self) -> int:
        """Numbers that one position leaves in the key/value cache."""
        return 2 * self.layers * self.kv_heads * self.head_dim


if __name__ == "__main__":
    print(model_directory())
