"""What tests of pages need: a user with a password, and a browser that is strict about forms."""

from io import StringIO

from django.core.management import call_command
from django.test import Client

from accounts.models import User

PASSWORD = "a long-winded password"
HTML = {"HTTP_ACCEPT": "text/html"}


def user_with_password(name: str, **fields: object) -> User:
    return User.objects.create_user(name, password=PASSWORD, **fields)


def signed_in(user: User) -> Client:
    client = Client(headers={"accept": "text/html"})
    client.force_login(user)
    return client


def sign_in(client: Client, name: str, password: str, **extra: str):  # type: ignore[no-untyped-def]
    address = extra.pop("address", "192.0.2.1")
    data = {"username": name, "password": password, **extra}
    return client.post("/sign-in/", data, REMOTE_ADDR=address, **HTML)


def manage(*args: str) -> str:
    """What a command prints on stdout."""
    out = StringIO()
    call_command(*args, stdout=out, stderr=StringIO())
    return out.getvalue()
