"""The server that everybody writes first, to compare with: `generate` behind a lock.

    python -m benchmarks.one_at_a_time MODEL_DIRECTORY --port 8000

Streams chat completions in OpenAI's shape, one after the other, with transformers' own model in
float32. As the demo that this project began with; only its cache is not the slow one of old.
"""

import argparse
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer


class Model:
    def __init__(self, directory: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self.turn = threading.Lock()

    def prompt(self, messages: list[dict[str, str]]) -> Any:
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )

    def stream(self, inputs: Any, max_tokens: int) -> TextIteratorStreamer:
        """Greedy, and never ended by an end token."""
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, timeout=60)
        lengths = {"max_new_tokens": max_tokens, "min_new_tokens": max_tokens}
        kwargs = {**inputs, **lengths, "do_sample": False, "streamer": streamer}
        threading.Thread(target=self.model.generate, kwargs=kwargs, daemon=True).start()
        return streamer


class Handler(BaseHTTPRequestHandler):
    model: Model

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        inputs, new = self.model.prompt(body["messages"]), body["max_tokens"]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        with self.model.turn:
            for text in self.model.stream(inputs, new):
                self.send({"choices": [{"index": 0, "delta": {"content": text}}]})
        usage = {"prompt_tokens": inputs["input_ids"].shape[1], "completion_tokens": new}
        end = {"index": 0, "delta": {}, "finish_reason": "length"}
        self.send({"choices": [end], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def send(self, event: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

    def log_message(self, *args: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description="Chat completions, one at a time.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    Handler.model = Model(given.model)
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer(("127.0.0.1", given.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
