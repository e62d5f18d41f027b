"""From the environment to the settings, or to a sentence that says what is wrong with it."""

import contextlib
import difflib
import os
import secrets
import sys
from pathlib import Path

from dotenv import dotenv_values
from pydantic import ValidationError

from config.env import ENV_FILE, PREFIX, ServerSettings, variable_name
from config.values import sentence_of

SECRETS = ("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "LLMAPI_METRICS_TOKEN")
"""Variables whose values are repeated nowhere."""


def load() -> ServerSettings:
    """Read the environment; a bad value ends the process with a sentence that names the
    variable."""
    known = {variable_name(field) for field in ServerSettings.model_fields} | {"LLMAPI_ENV_FILE"}
    if "LLMAPI_ENV_FILE" in os.environ and not ENV_FILE.is_file():
        sys.exit(f"llmapi: LLMAPI_ENV_FILE: there is no file '{ENV_FILE}'")
    for name in (*os.environ, *dotenv_values(ENV_FILE)):
        if name.startswith(PREFIX) and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {nearest[0]}?" if nearest else ""
            sys.exit(f"llmapi: {name} is not a setting of this server.{hint}")
    try:
        settings = ServerSettings()
        settings.var_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except ValidationError as error:
        sys.exit(explain(error))
    except OSError as error:
        sys.exit(f"llmapi: LLMAPI_VAR_DIR: '{error.filename}': {error.strerror}")
    return settings


def explain(error: ValidationError) -> str:
    """One sentence for each bad value, naming its variable. Values of secrets are not repeated."""
    sentences = []
    for problem in error.errors():
        if not problem["loc"]:
            sentences.append(f"llmapi: {problem['msg'].removeprefix('Value error, ')}")
            continue
        field = str(problem["loc"][0])
        name = variable_name(field) if field in ServerSettings.model_fields else field
        message = sentence_of(problem)
        if name in SECRETS or problem["type"] == "value_error":
            shown = ""  # a secret; or the sentence names the part of it that is wrong
        else:
            shown = f" (it is {problem['input']!r})"
        sentences.append(f"llmapi: {name}: {message}{shown}")
    return "\n".join(sentences)


def read_or_make_secret_key(var_dir: Path) -> str:
    """The key that signs sessions: made on the first start, readable by its owner alone."""
    path = var_dir / "secret_key"
    if not path.exists():
        # Under another name first: of two servers that start at once, neither reads half a key.
        mine = var_dir / f"secret_key.{os.getpid()}"
        descriptor = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(50) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(mine, path)
        mine.unlink()
    key = path.read_text().strip()
    if len(key) < 32:
        sys.exit(f"llmapi: '{path}' holds no key; remove the file to have a new one made")
    return key
