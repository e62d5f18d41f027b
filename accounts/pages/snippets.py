"""Commands that work as they stand, against this very server."""

import json
import shlex
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils.translation import gettext as _

from accounts.models import ApiKey, Scope
from accounts.offered import offered_models

QUESTION = "What is the capital of China?"


@dataclass(frozen=True)
class Snippet:
    id: str
    label: Any
    note: Any
    code: str


def api_address(request: HttpRequest) -> str:
    """Where programs reach the API: as the operator says, else where this page was reached."""
    public: str | None = settings.LLMAPI.public_url
    return f"{public.rstrip('/')}/v1" if public else request.build_absolute_uri("/v1")


def snippets(
    request: HttpRequest, key: ApiKey | None = None, text: str = "YOUR_API_KEY"
) -> list[Snippet]:
    """How to ask with this key by curl, in Python, and by variables that most tools read."""
    base = api_address(request)
    scopes = key.scopes if key else []
    models = (key.allowed_models if key else []) or offered_models()
    model = models[0] if models else "MODEL"
    if not scopes or Scope.CHAT in scopes:
        path, body, call = chat(model)
    elif Scope.COMPLETIONS in scopes:
        path, body, call = completion(model)
    elif Scope.EMBEDDINGS in scopes:
        path, body, call = embedding(model)
    else:
        path, body, call = (
            "models",
            "",
            ["for model in client.models.list():", "    print(model.id)"],
        )
    return [
        Snippet("curl", "curl", _("In a terminal"), curl(f"{base}/{path}", text, body)),
        Snippet("python", "Python", "pip install openai", python(base, text, call)),
        Snippet(
            "environment",
            _("Environment"),
            _("The OpenAI SDKs and most tools read these"),
            f"export OPENAI_BASE_URL={shlex.quote(base)}\nexport OPENAI_API_KEY={text}",
        ),
    ]


def chat(model: str) -> tuple[str, str, list[str]]:
    body = (
        f'{{\n    "model": {quoted(model)},\n'
        f'    "messages": [{{"role": "user", "content": "{QUESTION}"}}]\n  }}'
    )
    call = [
        "answer = client.chat.completions.create(",
        f"    model={quoted(model)},",
        f'    messages=[{{"role": "user", "content": "{QUESTION}"}}],',
        ")",
        "print(answer.choices[0].message.content)",
    ]
    return "chat/completions", body, call


def completion(model: str) -> tuple[str, str, list[str]]:
    body = f'{{"model": {quoted(model)}, "prompt": "Name three colours."}}'
    call = [
        f'answer = client.completions.create(model={quoted(model)}, prompt="Name three colours.")',
        "print(answer.choices[0].text)",
    ]
    return "completions", body, call


def embedding(model: str) -> tuple[str, str, list[str]]:
    body = f'{{"model": {quoted(model)}, "input": "The weather is fine today."}}'
    call = [
        "answer = client.embeddings.create(",
        f'    model={quoted(model)}, input="The weather is fine today."',
        ")",
        "print(answer.data[0].embedding[:5])",
    ]
    return "embeddings", body, call


def curl(url: str, text: str, body: str) -> str:
    lines = [f"curl {shlex.quote(url)} \\", f'  -H "Authorization: Bearer {text}"']
    if body:
        lines[-1] += " \\"
        lines += ['  -H "Content-Type: application/json" \\', f"  -d {shlex.quote(body)}"]
    return "\n".join(lines)


def python(base: str, text: str, call: list[str]) -> str:
    begin = [
        "from openai import OpenAI",
        "",
        f'client = OpenAI(base_url="{base}", api_key="{text}")',
    ]
    return "\n".join([*begin, *call])


def quoted(text: str) -> str:
    """A string of JSON, which is one of Python too; what a name of a model may hold needs more than
    quotation marks around it."""
    return json.dumps(text)
