"""`ModelService`: which models are served, and by which backend."""

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import replace

from accounts.errors import PermissionRefused
from llmapi.backends.adapters import Adapters
from llmapi.backends.base import Backend, BackendFailed, ModelCard, Prepared, Request
from llmapi.engine.messages import Answer
from llmapi.errors import ModelNotFound, ServerUnavailable


class ModelService:
    """A map from model id to backend. One per process: `models` below.

    The first backend is the default: it answers requests that name no model. A backend serves its
    base model and the adapters on it, each under an id of its own.
    """

    def __init__(self) -> None:
        self._backends: list[Backend] = []
        self._aliases: Mapping[str, str] = {}

    def start(
        self,
        backends: list[Backend],
        report: Callable[[str], None],
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """Take over these backends and let them load; returns at once. `aliases`: other names that
        requests may use -> model ids. Raises BackendFailed for one that cannot be."""
        check_aliases(aliases or {}, backends)
        self._backends = backends
        self._aliases = aliases or {}
        for backend in backends:
            backend.start(report)

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Block until every backend is ready. Raises BackendFailed or TimeoutError."""
        for backend in self._backends:
            backend.wait_ready(timeout_s)

    def stop(self) -> None:
        backends, self._backends = self._backends, []
        self._aliases = {}
        for backend in backends:
            backend.stop()

    @property
    def unavailable(self) -> str | None:
        """Why some model cannot answer at present, as a sentence; None: all are ready."""
        if not self._backends:
            return "No model is served."
        reasons = (backend.unavailable for backend in self._backends)
        return next((reason for reason in reasons if reason), None)

    @property
    def backends(self) -> Sequence[Backend]:
        """The default first."""
        return self._backends

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other names -> model ids."""
        return self._aliases

    @property
    def adapters(self) -> Adapters | None:
        """Those on the default model; None: it can have none."""
        return self._backends[0].adapters if self._backends else None

    def cards(self, allowed: Collection[str] = ()) -> list[ModelCard]:
        """The served models, the default first, then their aliases; those still loading are left
        out, and those that `allowed` does not name (`check_allowed`)."""
        cards = {card.id: card for backend in self._backends for card in backend.cards}
        aliases = [
            replace(cards[target], id=alias, alias_of=target)
            for alias, target in self._aliases.items()
            if target in cards
        ]
        return [
            card
            for card in (*cards.values(), *aliases)
            if not allowed or card.id in allowed or card.alias_of in allowed
        ]

    def check_allowed(self, model: str, allowed: Collection[str]) -> None:
        """Raises PermissionRefused if `allowed` has neither this id or alias nor what it stands
        for, and ModelNotFound if it has, but nothing of `allowed` is served. () allows all."""
        if not allowed:
            return
        obstacle = self.why_none(allowed)
        if not {model, self._aliases.get(model)} & {*allowed}:
            sentence = f"This API key may not use the model '{model[:100]}'"
            raise PermissionRefused(
                f"{sentence}. {obstacle}"
                if obstacle
                else f"{sentence}; it may use {', '.join(allowed)}.",
                param="model",
            )
        if obstacle:
            raise ModelNotFound(obstacle, param="model")

    def why_none(self, allowed: Collection[str]) -> str | None:
        """Why a key for these models can use none, if models are served; None: it can use some, or
        it is not known yet which ones are served. () allows all."""
        if self.cards(allowed) or not self.cards():
            return None
        return (
            f"Of the models that this API key may use ({', '.join(allowed)}), none is served at "
            "present. Ask the operator of this server, or use another key."
        )

    def generation_defaults(self, card: ModelCard) -> Mapping[str, float]:
        """What this model answers with where requests leave it out; empty: not known."""
        owners = (backend for backend in self._backends if backend.serves(card.root))
        return next((backend.generation_defaults for backend in owners), {})

    def card(self, model: str) -> ModelCard:
        for card in self.cards():
            if card.id == model:
                return card
        if model in self._aliases:
            self._check_target(model, self._aliases[model])
        raise self._not_found(model)

    def backend(self, model: str | None) -> Backend:
        """The backend of a model id; None: the default. Raises ModelNotFound, ServerUnavailable."""
        if not self._backends:
            raise ServerUnavailable("No model is served.")
        if model is None:
            return self._backends[0]
        for backend in self._backends:
            if backend.serves(model):
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

    def _check_target(self, alias: str, target: str) -> None:
        """Raises ModelNotFound if the alias stands for an adapter that is not served now."""
        status = self.adapters.status(target) if self.adapters else None
        if status is not None and status.failure is not None:
            raise ModelNotFound(
                f"The model '{alias}' is not served at present: it stands for the adapter "
                f"'{target}', which could not be loaded.",
                param="model",
            )

    def prepare(self, request: Request, request_id: str, user: str) -> Prepared:
        """Template, tokens, defaults, by the backend of the model that `request` names. Raises
        ApiError."""
        alias = request.model
        if alias is not None and alias in self._aliases:
            request = replace(request, model=self._aliases[alias])
            self._check_target(alias, self._aliases[alias])
        return self.backend(request.model).prepare(request, request_id, user)

    def stream(self, prepared: Prepared) -> AsyncGenerator[Sequence[Answer]]:
        """The answer as it comes: each time all that has come since. Closing the iterator aborts
        what is left."""
        return self.backend(prepared.model).stream(prepared)

    async def embed(self, prepared: Prepared) -> list[bytes]:
        """One vector for each input: float32, little-endian, L2-normalised."""
        return await self.backend(prepared.model).embed(prepared)


def check_aliases(aliases: Mapping[str, str], backends: list[Backend]) -> None:
    """Before anything is loaded, for the names of all models are known by then. Raises
    BackendFailed."""
    if not aliases:
        return
    statuses = [s for b in backends if b.adapters for s in b.adapters.statuses()]
    served = [b.name for b in backends] + [s.name for s in statuses if s.failure is None]
    # One that staff added and that failed is expected back.
    expected = {s.name for s in statuses}.union(served)
    for alias, target in aliases.items():
        if alias in served:
            raise BackendFailed(
                f"LLMAPI_MODEL_ALIASES: '{alias}' is the id of a served model; choose another name."
            )
        if target not in expected:
            raise BackendFailed(
                f"LLMAPI_MODEL_ALIASES: '{alias}' stands for '{target}', which is not served. "
                f"Served: {', '.join(served)}."
            )


models = ModelService()


def model_names() -> list[str]:
    """The names that requests may use at present, for forms that offer them."""
    return [card.id for card in models.cards()]
