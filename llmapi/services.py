"""`ModelService`: which models are served, and by which backend."""

from collections.abc import AsyncGenerator, Callable, Sequence

from llmapi.backends.base import Backend, ModelCard, Prepared
from llmapi.engine.messages import Answer
from llmapi.errors import ModelNotFound, ServerUnavailable


class ModelService:
    """A map from model id to backend. One per process: `models` below.

    The first backend is the default: it answers requests that name no model.
    """

    def __init__(self) -> None:
        self._backends: list[Backend] = []

    def start(self, backends: list[Backend], report: Callable[[str], None]) -> None:
        """Take over these backends and let them load; returns at once."""
        self._backends = backends
        for backend in backends:
            backend.start(report)

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Block until every backend is ready. Raises BackendFailed or TimeoutError."""
        for backend in self._backends:
            backend.wait_ready(timeout_s)

    def stop(self) -> None:
        backends, self._backends = self._backends, []
        for backend in backends:
            backend.stop()

    @property
    def unavailable(self) -> str | None:
        """Why some model cannot answer at present, as a sentence; None: all are ready."""
        if not self._backends:
            return "No model is served."
        reasons = (backend.unavailable for backend in self._backends)
        return next((reason for reason in reasons if reason), None)

    def cards(self) -> list[ModelCard]:
        """The served models, the default first; those still loading are left out."""
        return [backend.card for backend in self._backends if backend.card]

    def card(self, model: str) -> ModelCard:
        for card in self.cards():
            if card.id == model:
                return card
        raise self._not_found(model)

    def backend(self, model: str | None) -> Backend:
        """The backend of a model id; None: the default. Raises ModelNotFound, ServerUnavailable."""
        if not self._backends:
            raise ServerUnavailable("No model is served.")
        if model is None:
            return self._backends[0]
        for backend in self._backends:
            if backend.card and backend.card.id == model:
                return backend
        loading = next((b.unavailable for b in self._backends if not b.card), None)
        if loading:  # it may be the very model that was asked for
            raise ServerUnavailable(loading)
        raise self._not_found(model)

    def _not_found(self, model: str) -> ModelNotFound:
        served = ", ".join(f"'{card.id}'" for card in self.cards()) or "none yet"
        return ModelNotFound(
            f"The model '{model[:100]}' is not served here. Served: {served}.", param="model"
        )

    def stream(self, prepared: Prepared) -> AsyncGenerator[Sequence[Answer]]:
        """The answer as it comes: each time all that has come since. Closing the iterator aborts
        what is left."""
        return self.backend(prepared.model).stream(prepared)

    async def embed(self, prepared: Prepared) -> list[bytes]:
        """One vector for each input: float32, little-endian, L2-normalised."""
        return await self.backend(prepared.model).embed(prepared)


models = ModelService()
