"""The engine's side of the pipe without a model: it says which adapter it was asked for."""

import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from llmapi.backends.local import LocalBackend
from llmapi.engine.config import EngineConfig
from llmapi.engine.messages import (
    AdapterFailed,
    AdapterInfo,
    AdapterLoaded,
    DropAdapter,
    Embedding,
    EmbedRequest,
    Finish,
    FinishReason,
    GenerateRequest,
    Inbound,
    LoadAdapter,
    ModelInfo,
    Outbound,
    Ready,
    RequestFailed,
    StepOutput,
    TextDelta,
)

HIDDEN_SIZE = 4


def model_info(**facts: Any) -> ModelInfo:
    """What an engine tells of a small model, with these `facts` in place of the usual ones."""
    usual: dict[str, Any] = {
        "name": "base",
        "tokenizer_path": "",
        "context_length": 512,
        "hidden_size": HIDDEN_SIZE,
        "vocab_size": 400,
        "eos_token_ids": (2,),
        "parameters": 1000,
        "dtype": "float32",
        "quantisation": None,
        "decoder": "fused",
        "device": "cpu",
        "kv_cache_tokens": 4096,
        "kv_block_tokens": 16,
        "max_batch": 8,
        "load_s": 0.0,
        "generation_defaults": {},
    }
    return ModelInfo(**usual | facts)


class StandIn:
    """Give `launch` to a backend. One object stands for all engines that the backend starts."""

    def __init__(self, tokenizer: Path, lora: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.lora = lora
        self.lives = 0
        self.heard: list[list[Inbound]] = []
        """What came, in each life."""
        self.refused: dict[str, str] = {}
        """Name -> why that adapter fails."""
        self.dies_of: set[str] = set()
        self.may_load = threading.Event()
        self.may_load.set()
        self.holds = False
        """Whether answers stop after their first word, until `finish`."""
        self.is_wedged = False
        """Whether it lives and says nothing more of what it is asked."""
        self.under_way: list[GenerateRequest] = []
        self._connection: Connection | None = None
        self._sending = threading.Lock()

    def launch(self, theirs: Connection, config: EngineConfig) -> threading.Thread:
        self._connection = theirs
        self.lives += 1
        self.heard.append([])
        thread = threading.Thread(target=self.run, args=(theirs,), daemon=True)
        thread.start()
        return thread

    def run(self, connection: Connection) -> None:
        self.say(Ready(self.info))
        adapters: set[str] = set()
        try:
            while True:
                message = connection.recv()
                self.heard[-1].append(message)
                self.take(message, adapters)
        except (EOFError, OSError):
            connection.close()

    def take(self, message: Inbound, adapters: set[str]) -> None:
        if self.is_wedged:
            return
        match message:
            case LoadAdapter(name, path):
                assert self.may_load.wait(30)
                if name in self.dies_of:
                    raise EOFError
                if name in self.refused:
                    self.say(AdapterFailed(name, self.refused[name]))
                else:
                    adapters.add(name)
                    info = AdapterInfo(name, path, 8, ("q_proj", "v_proj"), 4096)
                    self.say(AdapterLoaded(info))
            case DropAdapter(name):
                adapters.discard(name)
            case GenerateRequest() | EmbedRequest() if message.adapter not in {"", *adapters}:
                self.tell(RequestFailed(message.request_id, "There is no such adapter."))
            case GenerateRequest():
                self.tell(TextDelta(message.request_id, 0, f"<{message.adapter}>", 1))
                self.under_way.append(message)
                if not self.holds:
                    self.finish()
            case EmbedRequest():
                vector = bytes(4 * HIDDEN_SIZE)
                inputs = range(len(message.inputs))
                self.tell(*(Embedding(message.request_id, i, vector) for i in inputs))

    def finish(self) -> None:
        """The last word of each answer that is under way."""
        works, self.under_way = self.under_way, []
        for work in works:
            size = len(work.prompts[0])
            self.tell(
                TextDelta(work.request_id, 0, ".", 1),
                Finish(work.request_id, 0, FinishReason.STOP, size, 2),
            )

    def say(self, message: Outbound) -> None:
        assert self._connection is not None
        with self._sending:
            self._connection.send(message)

    def tell(self, *events) -> None:
        self.say(StepOutput(events, 1, 1, 0, 1))

    @property
    def info(self) -> ModelInfo:
        return model_info(tokenizer_path=str(self.tokenizer), lora=self.lora)

    def asked_to_load(self, life: int = -1) -> list[str]:
        return [m.name for m in self.heard[life] if isinstance(m, LoadAdapter)]


def backend_on(
    engine: StandIn, adapters: dict[str, str] | None = None, **options: Any
) -> LocalBackend:
    config = EngineConfig(
        "base", "cache", served_name="base", adapters=tuple((adapters or {}).items())
    )
    return LocalBackend(config, launch=engine.launch, **options)
