"""The ASGI application. `manage.py serve` starts the models beside it."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application
from django.core.signals import request_finished
from django.db import connections

# First of all the imports that need Django's apps: it loads them.
django_application = ASGIStaticFilesHandler(get_asgi_application())

from llmapi.routing import application as door_before  # noqa: E402


def close_connections(**kwargs: object) -> None:
    """Django's ASGI handler runs each request's views on a thread of its own, which then ends; its
    connections must end with it. The door's executor threads send no such signal and keep theirs.
    """
    connections.close_all()


request_finished.connect(close_connections)

application = door_before(django_application)
