"""`manage.py showprompt`: what the model would be given for a chat, without loading it."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from llmapi.backends.base import BackendFailed, ChatMessage
from llmapi.backends.prompt import PromptEncoder
from llmapi.configured import embedded_model, prompt_template
from llmapi.engine.config import EngineConfig
from llmapi.engine.messages import LoadProgress
from llmapi.engine.source import LoadError
from llmapi.management.commands.serve import FLAGS, flag_of, options_with

TAKEN = ("base_model", "lora_model", "tokenizer_path", "prompt_template")
"""Flags of `serve` that decide which tokenizer and which template there are."""
ENDLESS = 2**30


class Command(BaseCommand):
    help = (
        "Print a chat as the model would be given it: the template's text, and the token ids with "
        "--ids. Takes the variables and these flags of `serve`; loads no weights."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        fields = type(settings.LLMAPI).model_fields
        for name in TAKEN:
            metavar = FLAGS[name]["metavar"]
            parser.add_argument(flag_of(name), metavar=metavar, help=fields[name].description)
        parser.add_argument("--system", help="a system message before the others")
        parser.add_argument("--ids", action="store_true", help="print the token ids too")
        parser.add_argument(
            "text", nargs="+", help="what user and assistant say in turns, the user first"
        )

    def handle(self, *, text: list[str], system: str | None, ids: bool, **flags: Any) -> None:
        options = options_with({name: flags[name] for name in TAKEN})
        encoder = self.encoder(options)
        chat = [
            ChatMessage("assistant" if turn % 2 else "user", said) for turn, said in enumerate(text)
        ]
        if system is not None:
            chat.insert(0, ChatMessage("system", system))
        self.report(
            f"template: {encoder.template.name}, tokenizer: {encoder.tokenizer.name_or_path}"
        )
        try:
            self.stdout.write(encoder.render_chat(chat))
            if ids:
                self.stdout.write(" ".join(map(str, encoder.encode_chat(chat, "messages"))))
        except Exception as error:  # a template may end in any way
            raise CommandError(
                f"The template does not write this chat: {type(error).__name__}: {error}"
            ) from error

    def encoder(self, options: Any) -> PromptEncoder:
        """As the server would make it, but for what only the model tells: its length and rows."""
        try:
            template = prompt_template(options)
            config = EngineConfig(
                base_model=options.base_model or embedded_model(),
                cache_dir=str(Path(options.var_dir) / "models"),
                tokenizer_path=options.tokenizer_path,
                lora_model=options.lora_model,
            )
            from llmapi.engine.conversion import tokenizer_of  # torch comes with it

            directory = tokenizer_of(config, self.report_progress)
            return PromptEncoder.load(str(directory), ENDLESS, ENDLESS, template)
        except (ImproperlyConfigured, LoadError, BackendFailed) as error:
            raise CommandError(str(error)) from error

    told = ""

    def report_progress(self, progress: LoadProgress) -> None:
        if progress.text != self.told:
            self.told = progress.text
            self.report(self.told)

    def report(self, line: str) -> None:
        self.stderr.write(f"llmapi: {line}", style_func=str)
