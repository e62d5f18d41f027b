"""From last hidden states to vectors, chunk by chunk."""

from torch import Tensor
from torch.nn.functional import normalize

from llmapi.engine.logprobs import BrokenNumbers
from llmapi.engine.sequence import Sequence


class Embedder:
    """Keeps, for inputs that are not computed to their end, the last hidden states added up."""

    def __init__(self) -> None:
        self._sums: dict[Sequence, Tensor] = {}

    def add(self, sequence: Sequence, chunk_sum: Tensor) -> None:
        """One more chunk of it has been computed."""
        before = self._sums.get(sequence)
        self._sums[sequence] = chunk_sum if before is None else before + chunk_sum

    def finish(self, sequence: Sequence) -> bytes:
        """Its vector, as `Embedding` has it, after its last chunk. Raises BrokenNumbers."""
        mean = self._sums.pop(sequence) / sequence.prompt_tokens
        vector = normalize(mean, dim=-1).cpu()
        if not vector.isfinite().all():
            raise BrokenNumbers
        return vector.numpy().astype("<f4").tobytes()

    def remove(self, sequence: Sequence) -> None:
        """Forget what is kept of it: it is gone, or begins again. Unknown ones are ignored."""
        self._sums.pop(sequence, None)
