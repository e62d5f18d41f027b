"""What the server costs beside the model: processor time for each token and for each request.

    python -m benchmarks.door_cost

The whole server, every row saved, in front of an engine that computes nothing: at each step it
tells one word of every running request, at the pace of a fast model. Answers of two lengths are
measured; what the longer ones cost more is the tokens', the rest is the requests'. Processor time,
unlike tokens/s, says the same on a busy machine (nearly).
"""

import argparse
import itertools
import os
import signal
import sys
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.figures import markdown
from benchmarks.load_client import measure
from benchmarks.model import model_directory
from benchmarks.servers import Server, settings_from, started
from llmapi.engine.messages import (
    Event,
    Figures,
    Finish,
    FinishReason,
    GenerateRequest,
    ModelInfo,
    Ready,
    StepOutput,
    TextDelta,
)

NAME = "words"
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
SHORT, LONG = 16, 144


# ---- the server ---------------------------------------------------------------------------------


class Words:
    """In place of an `Engine`: words at a steady pace."""

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s
        self.left: dict[str, GenerateRequest] = {}
        self.told: dict[str, int] = {}
        self.steps = 0

    @property
    def has_work(self) -> bool:
        return bool(self.told)

    def add(self, request: GenerateRequest) -> None:
        self.left[request.request_id] = request
        self.told[request.request_id] = 0

    def abort(self, request_id: str) -> None:
        self.told.pop(request_id, None)

    def figures(self) -> Figures:
        told = len(self.told)
        return Figures(told, 0, self.steps, 0.0, 0, 0, 0, (), 0, 0, 0, 0, 0, 0)

    def step(self) -> StepOutput:
        time.sleep(self.pause_s)
        self.steps += 1
        events: list[Event] = []
        for name, told in list(self.told.items()):
            events.append(TextDelta(name, 0, " word", 1))
            self.told[name] = told + 1
            request = self.left[name]
            if told + 1 == request.params.max_tokens:
                prompt = len(request.prompts[0])
                events.append(Finish(name, 0, FinishReason.LENGTH, prompt, told + 1))
                self.abort(name)
        return StepOutput(tuple(events), self.steps, len(self.told), 0, len(events))


def engine_process(theirs: Connection, tokenizer: str, pause_s: float) -> None:
    from llmapi.engine.worker import Inbox, Outbox, serve

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    info = ModelInfo(
        NAME, tokenizer, 2048, 8, 49152, (2,), 0, "", None, "", "", 2**20, 16, 64, 0.0, {}
    )
    inbox, outbox = Inbox(theirs, on_close=lambda: os._exit(0)), Outbox(theirs)
    outbox.put(Ready(info))
    serve(Words(pause_s), inbox, outbox)  # type: ignore[arg-type]


def serve(port: int, pause_s: float) -> None:
    """`manage.py serve` with that engine."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    import django
    from django.core.management import call_command

    django.setup()
    from llmapi.backends.local import LocalBackend
    from llmapi.engine.config import EngineConfig
    from llmapi.management.commands import serve as command

    def launch(theirs: Connection, config: EngineConfig):  # type: ignore[no-untyped-def]
        arguments = (theirs, config.base_model, pause_s)
        process = get_context("spawn").Process(target=engine_process, args=arguments)
        process.start()
        theirs.close()
        return process

    def backends(options: object) -> list[LocalBackend]:
        return [LocalBackend(EngineConfig(options.base_model, ""), launch=launch)]  # type: ignore[attr-defined]

    command.configured_backends = backends  # type: ignore[assignment]
    call_command("serve", port=port, host="127.0.0.1")


# ---- measuring ----------------------------------------------------------------------------------


def processor_s(pid: int) -> float:
    """User and system time of a process, its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def main() -> None:
    parser = argparse.ArgumentParser(description="What the server costs beside the model.")
    parser.add_argument("-c", "--clients", type=int, default=32)
    parser.add_argument("--per-client", type=int, default=6)
    parser.add_argument("--step-ms", type=float, default=40)
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve, given.step_ms / 1000)
        return
    program = ["{PYTHON}", "-m", "benchmarks.door_cost", "--serve", "{PORT}"]
    server = Server(
        name="words",
        model=NAME,
        command=[*program, "--step-ms", str(given.step_ms)],
        env={
            "LLMAPI_VAR_DIR": "{TMP}",
            "LLMAPI_ENV_FILE": "{TMP}/empty.env",
            "LLMAPI_BASE_MODEL": "{MODEL}",
        },
        key=["{PYTHON}", "manage.py", "createkey", "bench"],
        ready="/ready",
    )
    requests = given.per_client * given.clients
    with started(server, settings_from([], model_directory())) as running:
        # The engine is the child that uses the processor; the other tracks resources.
        pids = {"web": running.pid, "engine": max(children(running.pid), key=processor_s)}
        numbers = itertools.count(1)

        def costs(max_tokens: int) -> dict[str, float]:
            load = running.load(max_tokens=max_tokens)
            before = {name: processor_s(pid) for name, pid in pids.items()}
            row = measure(load, given.clients, requests, numbers)
            used = {name: processor_s(pid) - before[name] for name, pid in pids.items()}
            print(f"{row.tokens_per_s:.0f} tokens/s, {used}", file=sys.stderr)
            return used | {"client": row.client_cpu * row.seconds}

        measure(running.load(max_tokens=SHORT), given.clients, 2 * given.clients, numbers)
        short, long = costs(SHORT), costs(LONG)
    rows = []
    for name in short:
        token_s = (long[name] - short[name]) / (requests * (LONG - SHORT))
        request_s = short[name] / requests - SHORT * token_s
        rows.append([name, f"{token_s * 1e6:.0f}", f"{request_s * 1e3:.1f}"])
    print(markdown(["process", "us a token", "ms a request"], rows))


if __name__ == "__main__":
    main()
