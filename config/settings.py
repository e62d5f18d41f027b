"""Django's settings. What an operator may set is in `config.env`; the rest is decided here."""

from typing import Any

import dj_database_url

from config import env, reading

LLMAPI = reading.load()
BASE_DIR = env.PROJECT_DIR
VAR_DIR = LLMAPI.var_dir

SECRET_KEY = LLMAPI.secret_key or reading.read_or_make_secret_key(VAR_DIR)
DEBUG = LLMAPI.debug
ALLOWED_HOSTS = LLMAPI.allowed_hosts

INSTALLED_APPS = [
    "accounts.apps.AccountsConfig",
    "conversations.apps.ConversationsConfig",
    "llmapi.apps.LlmapiConfig",
    "conversations.apps.StaffAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
]

MIDDLEWARE = [
    "llmapi.middleware.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    # Before all that may answer in place of a view.
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "accounts.middleware.ContentSecurityPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "accounts.middleware.PageLanguageMiddleware",
    "llmapi.middleware.NoNulMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "conversations.exports.middleware.ExportsMiddleware",
]

ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# ---- database -----------------------------------------------------------------------------------

DATABASES: dict[str, dict[str, Any]] = {
    "default": dict(dj_database_url.parse(LLMAPI.database_url))
    if LLMAPI.database_url
    else {"ENGINE": "django.db.backends.sqlite3", "NAME": VAR_DIR / "db.sqlite3"}
}
# The executor's threads live as long as the server and keep their connections; a connection that
# died is found before it is used.
DATABASES["default"] |= {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {
        # IMMEDIATE: a transaction that will write takes the lock at its start, and waits for it.
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        # FULL: a commit is on the disk when it returns; NORMAL may lose one on power loss.
        # secure_delete: there are zeros in the file where an erased text was.
        "init_command": (
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON;"
        ),
    }
else:
    # A server that is there and silent (frozen, or behind a network that drops packets) is an error
    # within seconds, not a thread that waits for ever.
    DATABASES["default"]["OPTIONS"] = {
        "connect_timeout": 5,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        **DATABASES["default"].get("OPTIONS", {}),
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# ---- users --------------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

# ---- the API ------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["accounts.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": [
        "rest_framework.permissions.IsAuthenticated",
        "accounts.permissions.HasScope",
    ],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["llmapi.parsers.StrictJSONParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "llmapi.negotiation.AlwaysJSON",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "llmapi.errors.exception_handler",
    "UNAUTHENTICATED_USER": None,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "llmapi",
    "DESCRIPTION": "A self-hosted, multi-user, OpenAI-compatible API for LLaMA-family models.",
    "VERSION": "0.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "llmapi.openapi.complete",
    ],
}

# Django's own limit would be lower than the door's.
DATA_UPLOAD_MAX_MEMORY_SIZE = LLMAPI.max_body_bytes

# ---- pages --------------------------------------------------------------------------------------

LOGIN_URL = "sign_in"
LOGIN_REDIRECT_URL = "start"
CSRF_FAILURE_VIEW = "llmapi.errors.csrf_failure"
# Whose names the form for a new key offers: `accounts` knows nothing of models.
OFFERED_MODELS = "llmapi.services.model_names"
# The same for commands, which serve nothing.
CONFIGURED_MODELS = "llmapi.configured.model_names"
# How many tokens an account or a key has used since a time: `accounts` knows nothing of requests.
TOKENS_USED = "llmapi.reservations.tokens_used"

LANGUAGE_CODE = "en"
LANGUAGE_COOKIE_AGE = 365 * 24 * 3600
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "/static/"
STATIC_ROOT = VAR_DIR / "static"

# ---- security -----------------------------------------------------------------------------------

X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = LANGUAGE_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = LANGUAGE_COOKIE_SAMESITE = "Lax"
if LLMAPI.https:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    # Asked on the machine itself, or in its network. /metrics takes no key so, only its own token.
    SECURE_REDIRECT_EXEMPT = [r"^health$", r"^ready$", r"^metrics$"]
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    LANGUAGE_COOKIE_SECURE = True

# ---- logs ---------------------------------------------------------------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {"class": "accounts.logs.LineFormatter"},
        "json": {"class": "accounts.logs.JsonFormatter"},
    },
    "filters": {
        # A probe that asks every second whether the server is ready is no error of the server's.
        "not_503": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: getattr(record, "status_code", None) != 503,
        }
    },
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": LLMAPI.log_format,
            "filters": ["not_503"],
        }
    },
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "llmapi": {"level": LLMAPI.log_level},
        "accounts": {"level": LLMAPI.log_level},
        "conversations": {"level": LLMAPI.log_level},
        # With DEBUG, Django would write beside us, and as it likes.
        "django": {"handlers": [], "level": "WARNING", "propagate": True},
        # Ours is the one line for a refused request; Django's would be a second.
        "django.request": {"level": "ERROR"},
        # A host that is not ours, a thousand fields: the answer says it, and a traceback for every
        # scanner of the internet says nothing more.
        "django.security": {"level": "CRITICAL"},
        "django.security.csrf": {"level": "WARNING"},
    },
}
