"""Every setting of the server: one typed field each, read from the environment and from `.env`.

A field `base_model` is the variable `LLMAPI_BASE_MODEL`; the few with an alias carry the name that
Django deployments expect. docs/settings.md shows this table to operators.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from config.values import (
    Aliases,
    CommaSeparated,
    DatabaseUrl,
    Pairs,
    RedisUrl,
    sentence_of,
)

PROJECT_DIR = Path(__file__).resolve().parent.parent
PREFIX = "LLMAPI_"
ENV_FILE = Path(os.environ.get("LLMAPI_ENV_FILE", PROJECT_DIR / ".env"))
LOCAL_HOSTS = ["localhost", "127.0.0.1", "[::1]"]


class ServerSettings(BaseSettings):
    """The settings of one server. Frozen: `serve` makes a changed copy for its flags."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        populate_by_name=True,
        protected_namespaces=(),
    )

    # ---- the model: the seed's flags ------------------------------------------------------------
    base_model: str | None = Field(
        None,
        description="Directory in Hugging Face format, .gguf file, or hub id. "
        "Default: the embedded SmolLM2-135M-Instruct.",
    )
    lora_model: str | None = Field(
        None,
        description="Directory or hub id of a LoRA adapter, which is merged into the base model. "
        "The model keeps its name, if LLMAPI_MODEL_NAME gives no other.",
    )
    lora_models: Pairs = Field(
        {},
        description="LoRA adapters beside the base model, each a model of its own: "
        "`name=directory`, separated by commas.",
    )
    tokenizer_path: str | None = Field(
        None,
        description="Directory of another tokenizer. Default: the adapter's, else the model's own.",
    )
    gpus: str | None = Field(
        None,
        description="GPUs by number, such as `0` or `0,1`: the layers are spread over them. "
        "Default: a GPU if any.",
    )
    only_cpu: bool = Field(False, description="Use the CPU even if there is a GPU.")
    load_in_8bit: bool = Field(
        False, description="8-bit weights: bitsandbytes on a GPU, the native decoder on a CPU."
    )
    load_in_4bit: bool = Field(False, description="4-bit weights (bitsandbytes; GPUs only).")

    # ---- the engine -----------------------------------------------------------------------------
    engine: Literal["local", "echo"] = Field(
        "local", description="`echo` answers with the prompt: for trying clients and the web tier."
    )
    echo_delay_ms: int = Field(
        0, ge=0, le=60_000, description="Milliseconds that `echo` waits before each word."
    )
    engine_timeout_s: float = Field(
        300.0,
        ge=0,
        le=86_400,
        description="How long the engine may work on requests without finishing a forward pass; "
        "past it, it is killed and started again. 0: as long as it takes.",
    )
    model_name: str | None = Field(
        None, min_length=1, max_length=200, description="Model id shown to clients."
    )
    model_aliases: Aliases = Field(
        {},
        description="Other names that requests may use: `gpt-4=MODEL`, separated by commas.",
    )
    adapters_dir: Path | None = Field(
        None,
        description="Directory of LoRA adapters that staff may add while the server runs. "
        "Default: they may add none.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of the weights: `auto` is float32 on a CPU."
    )
    decoder: Literal["auto", "native", "fused", "generic"] = Field(
        "auto",
        description="How the model is computed: `native` (C; LLaMA family on a CPU), `fused` "
        "(torch; LLaMA family), `generic` (transformers' layers; any). `auto`: the first that can.",
    )
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads of the engine.")
    max_batch: int = Field(32, ge=1, le=4096, description="Sequences that decode together.")
    step_tokens: int = Field(512, ge=16, le=65536, description="Tokens of one forward pass.")
    fair_stretch: float = Field(
        1.75,
        ge=1,
        le=1000,
        description="Beside others, the user who wants least waits so many times as long for each "
        "token as alone. More: more tokens a second in all, and less for who asks for little.",
    )
    kv_cache_tokens: int | None = Field(
        None, ge=64, description="Size of the key/value cache. Default: from free memory."
    )
    context_length: int | None = Field(
        None,
        ge=16,
        description="Longest prompt plus answer. Default, and at most: the model's own.",
    )
    max_pending: int = Field(
        256, ge=1, description="Requests accepted and not finished; past it, 503 with Retry-After."
    )
    max_pending_per_user: int | None = Field(
        None,
        ge=1,
        description="The same of one user, over all keys; past it, 429 with Retry-After. Default: "
        "as many as there are places free for others, so that one alone may have half of them.",
    )

    # ---- defaults for what requests leave out ---------------------------------------------------
    default_max_tokens: int = Field(
        512, ge=0, description="Answer length; 0: until the context is full."
    )
    default_temperature: float | None = Field(
        None, ge=0, le=2, description="Default: generation_config.json's, else 0.2."
    )
    default_top_p: float | None = Field(
        None, gt=0, le=1, description="Default: generation_config.json's, else 0.9."
    )
    default_top_k: int | None = Field(
        None, ge=0, description="Default: generation_config.json's, else 40."
    )
    default_repetition_penalty: float | None = Field(
        None, ge=0.01, le=10, description="Default: generation_config.json's, else 1.1."
    )
    prompt_template: str = Field(
        "auto",
        description="How chats are written for the model: `auto` (the tokenizer's own template, "
        "else Alpaca's), `alpaca`, `llama-2`, `chatml`, or a file with a jinja template.",
    )
    completion_template: Literal["auto", "none"] = Field(
        "auto",
        description="`auto` wraps a completion's prompt in the model's instruction template, as "
        "the seed does; `none` continues it raw, as OpenAI's endpoint does.",
    )

    shared_system_prompts: CommaSeparated = Field(
        [],
        description="Text files, separated by commas, each with a system prompt that many chats "
        "begin with. It is computed once for all users; all else is cached for each user alone.",
    )

    # ---- what is kept ---------------------------------------------------------------------------
    store_by_default: bool = Field(
        True,
        description="Whether the API's history lists requests that do not say `store`. OpenAI's "
        "does not.",
    )
    unstored_text: Literal["keep", "discard"] = Field(
        "keep",
        description="The text of requests that the history does not list (`store: false`): `keep` "
        "it for staff to review, or `discard` it: not a word is ever written.",
    )

    idempotency_hours: int = Field(
        24,
        ge=1,
        le=720,
        description="How long a request with an `Idempotency-Key` that was answered is answered "
        "the same when it is sent again. So long its answer is kept for that.",
    )

    # ---- the door -------------------------------------------------------------------------------
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(19327, ge=0, le=65535, description="Port; 0 takes a free one.")
    allow_anonymous: bool = Field(
        False, description="Let requests without a key in, as the user `anonymous`."
    )
    max_body_bytes: int = Field(
        8 * 1024 * 1024, ge=1024, description="Longest request body; past it, 413."
    )
    max_bodies_bytes: int = Field(
        64 * 1024 * 1024,
        ge=1024,
        description="All request bodies together that are being received or wait to be accepted; "
        "past it, 503. A body may be no longer than what is left of it.",
    )
    max_unread_bytes: int = Field(
        128 * 1024 * 1024,
        ge=1024 * 1024,
        description="What waits for clients that read their streams too slowly, all together. A "
        "stream of which more waits than is left of it is cancelled.",
    )
    max_connections: int | None = Field(
        None,
        ge=1,
        description="Open connections; past it idle ones are closed, or else new ones get 503. "
        "Default: 256 below the limit on open files, at most 4096.",
    )
    header_timeout_s: float = Field(
        30.0, gt=0, le=3600, description="How long the headers of a request may take to come."
    )
    body_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="How long a request body may take to come, and one second more for each "
        "8 KiB of it that have come.",
    )
    idle_timeout_s: float = Field(
        75.0, gt=0, le=3600, description="How long a connection may be open without a request."
    )
    stalled_timeout_s: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="A client that takes nothing of an answer that waits for it, for so long, "
        "counts as gone.",
    )
    max_views: int = Field(
        16,
        ge=1,
        le=1000,
        description="Requests at once of all that is no completion: pages, the admin, history and "
        "usage by API. Each has a database connection; others wait, past 256 of them 503.",
    )
    shutdown_timeout_s: float = Field(
        30.0, ge=0, le=3600, description="How long running streams may go on after SIGTERM."
    )
    https: bool = Field(
        False, description="Served behind HTTPS: secure cookies, HSTS, redirect to https."
    )

    metrics_token: str | None = Field(
        None,
        min_length=16,
        pattern=r"^[!-~]+$",
        repr=False,
        description="Whoever sends it (`Authorization: Bearer ...`) may read `/metrics`. Default: "
        "only keys of staff users who may see requests. At least 16 characters, for example of "
        "`openssl rand -hex 32`.",
    )

    # ---- the pages ------------------------------------------------------------------------------
    sign_up: Literal["closed", "invitation", "open"] = Field(
        "closed",
        description="Who may become a user by the pages: nobody (staff make users), who has an "
        "invitation link, or everybody.",
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^/?#\s]+/?$",
        description="Address at which users reach this server: `https://llm.example.org`. For the "
        "examples on pages, and for links to sign up and to set a password. Default: where a page "
        "was reached; for links that commands print, http with the host and port above.",
    )
    proxies: int = Field(
        0,
        ge=0,
        le=10,
        description="Reverse proxies before this server, each adding to `X-Forwarded-For`. Without "
        "it, all who come through a proxy count as one address when sign-ins are throttled.",
    )

    # ---- what is kept ---------------------------------------------------------------------------
    users_may_delete: bool = Field(
        True,
        description="Whether users may delete their own conversations and requests. The usage of "
        "what is deleted stays.",
    )
    keep_text_days: int | None = Field(
        None,
        ge=1,
        le=36500,
        description="Prompts, answers and conversations older than this are erased, once an hour. "
        "Default: kept for ever.",
    )
    keep_usage_days: int | None = Field(
        None,
        ge=32,  # budgets of a month are counted from these rows
        le=36500,
        description="Requests older than this are deleted, and what was used with them. At least "
        "LLMAPI_KEEP_TEXT_DAYS, and at least 32: budgets of a month are counted from them. "
        "Default: kept for ever.",
    )

    # ---- limits of users that have none of their own ---------------------------------------------
    default_requests_per_minute: int | None = Field(
        None,
        ge=0,
        description="Requests of one user within 60 seconds, over all keys. Default: no limit.",
    )
    default_tokens_per_minute: int | None = Field(
        None,
        ge=0,
        description="Tokens of one user, of prompts and answers, within 60 seconds. "
        "Default: no limit.",
    )
    default_concurrent_requests: int | None = Field(
        None, ge=0, description="Requests of one user at once. Default: no limit."
    )
    default_token_budget: int | None = Field(
        None, ge=0, description="Tokens of one user in a day or a month. Default: no limit."
    )
    default_token_budget_period: Literal["day", "month"] = Field(
        "month", description="What that budget is for: a day or a calendar month, in UTC."
    )

    # ---- the ground -----------------------------------------------------------------------------
    var_dir: Path = Field(
        PROJECT_DIR / "var", description="Database, secret key, converted models, locks, journals."
    )
    database_url: DatabaseUrl | None = Field(
        None,
        repr=False,
        validation_alias="DATABASE_URL",
        description="`postgres://USER:PASSWORD@HOST:PORT/NAME`. "
        "Default: SQLite in the var directory.",
    )
    secret_key: str | None = Field(
        None,
        repr=False,
        min_length=32,
        validation_alias="SECRET_KEY",
        description="Default: made once, in the var directory, mode 0600.",
    )
    allowed_hosts: CommaSeparated = Field(
        LOCAL_HOSTS,
        validation_alias="ALLOWED_HOSTS",
        description="Host names that clients may use, separated by commas.",
    )
    debug: bool = Field(
        False, validation_alias="DEBUG", description="Django's debug pages. Never in production."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="What is written to stderr."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="`text`, for people, or `json`: one object a line."
    )

    redis_url: RedisUrl | None = Field(
        None,
        repr=False,
        validation_alias="REDIS_URL",
        description="`redis://HOST:PORT/NUMBER`, of a Redis database that nothing else uses: "
        "limits then hold for all server processes together. Default: for each process.",
    )

    @model_validator(mode="after")
    def batch_fits_a_step(self) -> Self:
        if self.max_batch > self.step_tokens:
            raise ValueError(
                "LLMAPI_MAX_BATCH may be LLMAPI_STEP_TOKENS at most: each sequence needs a token"
            )
        return self

    @model_validator(mode="after")
    def one_body_fits(self) -> Self:
        if self.max_body_bytes > self.max_bodies_bytes:
            raise ValueError(
                "LLMAPI_MAX_BODY_BYTES may be LLMAPI_MAX_BODIES_BYTES at most: the longest body "
                "could never be received"
            )
        return self

    @model_validator(mode="after")
    def texts_go_before_usage(self) -> Self:
        if self.keep_usage_days is not None and (
            self.keep_text_days is None or self.keep_text_days > self.keep_usage_days
        ):
            raise ValueError(
                "LLMAPI_KEEP_USAGE_DAYS needs LLMAPI_KEEP_TEXT_DAYS, at most as many: no text "
                "stays without its request"
            )
        return self

    @field_validator("engine", "dtype", "log_level", "log_format", "prompt_template", mode="before")
    @classmethod
    def strip_space(cls, value: object) -> object:
        return value.strip() if isinstance(value, str) else value

    @staticmethod
    def sentence_of(problem: Mapping[str, Any]) -> str:
        """For `serve`, whose flags are values of these too, and which does not know this room."""
        return sentence_of(problem)


def variable_name(field: str) -> str:
    """The environment variable of a field: `base_model` -> `LLMAPI_BASE_MODEL`."""
    alias = ServerSettings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else PREFIX + field.upper()
