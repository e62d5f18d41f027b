"""`manage.py reference`: what the code knows of docs/settings.md, parameters.md, templates.md and
observability.md."""

import json
from pathlib import Path
from typing import Any, get_args

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rest_framework.serializers import ListSerializer

from llmapi.backends.templates import BUILT_IN
from llmapi.bodies import RequestSerializer
from llmapi.fields import StrictField
from llmapi.management.commands.serve import FLAGS, flag_of
from llmapi.readings import metrics_described
from llmapi.serializers import (
    ChatCompletionSerializer,
    CompletionSerializer,
    EmbeddingSerializer,
    MessageSerializer,
)
from llmapi.strict import StrictSerializer

ROUTES: dict[str, type[RequestSerializer]] = {
    "POST /v1/chat/completions": ChatCompletionSerializer,
    "POST /v1/completions": CompletionSerializer,
    "POST /v1/embeddings": EmbeddingSerializer,
}
CHAT = [
    {"role": "user", "content": "What is the capital of China?"},
    {"role": "assistant", "content": "Beijing."},
    {"role": "user", "content": "法国的呢？"},
]
MADE = "<!-- made by `python manage.py reference`; change the code, not this table -->"


class Command(BaseCommand):
    help = "Write the reference tables in docs/; --check: fail if they are not up to date."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true")

    def handle(self, *args: Any, check: bool = False, **options: Any) -> None:
        docs = Path(settings.BASE_DIR) / "docs"
        stale = []
        for path, table in (
            (docs / "settings.md", settings_table()),
            (docs / "parameters.md", parameters_tables()),
            (docs / "templates.md", templates_text()),
            (docs / "observability.md", metrics_table()),
        ):
            text = path.read_text()
            fresh = text[: text.index(MADE) + len(MADE)] + "\n\n" + table + "\n"
            if fresh != text:
                stale.append(path.name)
                if not check:
                    path.write_text(fresh)
        if check and stale:
            raise CommandError(f"{', '.join(stale)}: run 'python manage.py reference'.")


def settings_table() -> str:
    rows = ["| variable | flag of `serve` | default | meaning |", "| --- | --- | --- | --- |"]
    kind = type(settings.LLMAPI)
    for name, field in kind.model_fields.items():
        alias = field.validation_alias
        variable = alias if isinstance(alias, str) else "LLMAPI_" + name.upper()
        flag = f"`{flag_of(name)}`" if name in FLAGS else ""
        choices = [
            f"`{choice}`" for choice in get_args(field.annotation) if isinstance(choice, str)
        ]
        meaning = field.description or ""
        if choices:
            meaning += f" One of {', '.join(choices)}."
        rows.append(f"| `{variable}` | {flag} | {default_of(name, field.default)} | {meaning} |")
    return "\n".join(rows)


def default_of(name: str, default: Any) -> str:
    if default is None or default in ([], {}):
        return ""
    if name == "var_dir":
        return "`var`"
    if isinstance(default, list):
        return f"`{','.join(default)}`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`"


def parameters_tables() -> str:
    parts = []
    for route, serializer in ROUTES.items():
        parts.append(f"## {route}\n\n{parameters_table(serializer())}")
        if "messages" in serializer().fields:
            parts.append(f"Each of `messages`:\n\n{parameters_table(MessageSerializer())}")
    return "\n\n".join(parts)


def parameters_table(serializer: StrictSerializer) -> str:
    rows = ["| parameter | fate | values | |", "| --- | --- | --- | --- |"]
    for name, field in serializer.fields.items():
        needed = " (required)" if field.required else ""
        rows.append(
            f"| `{name}`{needed} | honoured | {values_of(field)} | {field.help_text or ''} |"
        )
    for name, neutral in serializer.neutral.items():
        values = ", ".join(["null", *(shown(value) for value in neutral)])
        rows.append(f"| `{name}` | accepted at its neutral value | {values} | |")
    return "\n".join(rows)


def values_of(field: Any) -> str:
    """The field's JSON type and bounds, in a word or two."""
    if isinstance(field, ListSerializer):
        return "array"
    if not isinstance(field, StrictField):
        return "object"
    schema = field.json_schema()
    if "enum" in schema:
        return ", ".join(shown(value) for value in schema["enum"])
    words = [field.expects.removeprefix("a ").removeprefix("an ")]
    if "minimum" in schema:
        words.append(
            ("above" if schema.get("exclusiveMinimum") else "from") + f" {schema['minimum']}"
        )
    if "maximum" in schema:
        words.append(f"to {schema['maximum']}")
    if "maxLength" in schema:
        words.append(f"of {schema['maxLength']} characters at most")
    return " ".join(words)


def metrics_table() -> str:
    rows = ["| metric | kind | labels | |", "| --- | --- | --- | --- |"]
    for described in sorted(metrics_described(), key=lambda metric: metric.name):
        if not described.name.startswith("llmapi_"):
            continue  # which of the process's there are depends on the system
        labels = ", ".join(f"`{label}`" for label in described.labels)
        rows.append(f"| `{described.name}` | {described.kind} | {labels} | {described.about} |")
    return "\n".join(rows)


def templates_text() -> str:
    """One chat in each of the built-in templates."""
    from transformers.utils.chat_template_utils import render_jinja_template  # slow to import

    tokens: dict[str, Any] = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "space": "",
        "puts_bos": True,
    }
    parts = []
    for name, source in BUILT_IN.items():
        text = render_jinja_template([CHAT], chat_template=source, **tokens)[0][0]
        parts.append(f"### {name}\n\n```text\n{text}\n```")
    return "\n\n".join(parts)


def shown(value: Any) -> str:
    return f"`{json.dumps(value)}`"
