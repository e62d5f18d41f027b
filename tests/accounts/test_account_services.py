"""Users and keys are made once, whoever else is making them."""

from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.auth import authenticate
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from accounts import keys, services
from accounts.models import ApiKey, User


def all_text_in_the_database() -> str:
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        rows = []
        for table in tables:
            cursor.execute(f'SELECT * FROM "{table}"')
            rows += [repr(row) for row in cursor.fetchall()]
    return "\n".join(rows)


@pytest.mark.django_db
def test_only_the_digest_of_a_key_is_at_rest(alice) -> None:
    key, text = services.key_create(user=alice, name="laptop")
    assert (key.digest, key.name, key.user) == (keys.digest(text), "laptop", alice)
    stored = all_text_in_the_database()
    assert key.digest in stored
    assert text[11:] not in stored


@pytest.mark.django_db
def test_a_key_is_revoked_once_and_for_ever(alice) -> None:
    key, _ = services.key_create(user=alice)
    same = ApiKey.objects.get()
    assert services.key_revoke(key)
    assert not services.key_revoke(same)
    assert ApiKey.objects.get().revoked_at == key.revoked_at


@pytest.mark.django_db
def test_the_anonymous_user_has_no_keys() -> None:
    with pytest.raises(ValidationError):
        services.key_create(user=services.anonymous_user())


@pytest.mark.django_db
def test_first_staff_user_can_sign_in_and_has_a_working_key() -> None:
    made = services.first_staff_create()
    assert made is not None
    user, password, text = made
    assert (user.username, user.is_staff, user.is_superuser) == ("admin", True, True)
    assert authenticate(username="admin", password=password) == user
    assert ApiKey.objects.get(digest=keys.digest(text)).user == user
    assert services.first_staff_create() is None


@pytest.mark.django_db
def test_users_without_rights_do_not_take_the_first_staff_users_place(alice) -> None:
    assert services.first_staff_create() is not None
    assert services.first_staff_create() is None
    assert User.objects.filter(is_superuser=True).count() == 1


@pytest.mark.django_db
def test_an_anonymous_request_during_the_first_start_does_not_take_the_staff_users_place() -> None:
    services.anonymous_user()
    assert services.first_staff_create() is not None


@pytest.mark.django_db(transaction=True)
def test_servers_that_start_at_once_make_one_staff_user(at_once) -> None:
    made = at_once(4, lambda _: services.first_staff_create())
    assert len(made) == 4
    assert sum(result is not None for result in made) == 1
    assert (User.objects.count(), ApiKey.objects.count()) == (1, 1)


@pytest.mark.django_db(transaction=True)
def test_first_anonymous_requests_at_once_make_one_user(at_once) -> None:
    users = at_once(4, lambda _: services.anonymous_user())
    assert len({user.pk for user in users}) == 1
    assert len(users) == 4


def manage(*args: str) -> tuple[str, str]:
    """What a command prints on stdout and on stderr."""
    out, err = StringIO(), StringIO()
    call_command(*args, stdout=out, stderr=err, no_color=True)
    return out.getvalue(), err.getvalue()


def createkey(*args: str) -> tuple[str, str]:
    return manage("createkey", *args)


@pytest.mark.django_db
def test_createkey_prints_the_key_alone_on_stdout_and_all_else_on_stderr() -> None:
    out, err = createkey("bob", "--name", "laptop")
    key = ApiKey.objects.get()
    assert out == out.strip() + "\n"
    assert keys.parse(out.strip()) is not None
    assert key.digest == keys.digest(out.strip())
    assert (key.user.username, key.name) == ("bob", "laptop")
    assert not key.user.has_usable_password()
    assert "bob" in err
    assert out.strip() not in err


@pytest.mark.django_db
def test_createkey_gives_an_existing_user_one_more_key(alice) -> None:
    createkey("alice")
    _, err = createkey("alice")
    assert alice.api_keys.count() == 2
    assert "was made" not in err


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["no spaces here"], "username"),
        ([""], "blank"),
        (["x" * 151], "150"),
        (["anonymous"], "without a key"),
        (["bob", "--name", "x" * 101], "100"),
        (["bob", "--expires", "0"], "from 1 to"),
        (["bob", "--expires", "1000000"], "from 1 to"),
    ],
)
def test_createkey_says_what_is_wrong_and_makes_nothing(args: list[str], word: str) -> None:
    with pytest.raises(CommandError, match=word):
        createkey(*args)
    assert not ApiKey.objects.exists()
    assert not User.objects.exists()


@pytest.mark.django_db
def test_createkey_makes_a_key_that_expires(alice) -> None:
    _, err = createkey("alice", "--expires", "30")
    left = ApiKey.objects.get().expires_at - timezone.now()
    assert timedelta(days=29, hours=23) < left <= timedelta(days=30)
    assert "It expires on 2" in err


@pytest.mark.django_db
def test_createkey_tells_of_another_key_of_the_same_name(alice) -> None:
    createkey("alice", "--name", "laptop")
    first = ApiKey.objects.get()
    _, err = createkey("alice", "--name", "laptop")
    assert f"another key of this name, {first.masked}" in err
    _, err = createkey("bob", "--name", "laptop")
    assert "another key" not in err, "names are each user's own"
    assert ApiKey.objects.count() == 3


@pytest.mark.django_db
def test_keys_lists_keys_newest_first_and_never_shows_one(alice) -> None:
    _, err = manage("keys")
    assert "createkey" in err
    text = createkey("alice", "--name", "laptop")[0].strip()
    createkey("bob")
    old, new = ApiKey.objects.order_by("pk")
    services.key_revoke(old)
    heading, first, second = manage("keys")[0].splitlines()
    assert heading.startswith("PUBLIC ID")
    assert first.split() == [new.public_id, "bob", "usable", "never", "never"]
    assert second.split() == [old.public_id, "alice", "revoked", "never", "never", "laptop"]
    assert text[11:] not in second
    assert len(manage("keys", "alice")[0].splitlines()) == 2
    with pytest.raises(CommandError, match="no user 'carol'"):
        manage("keys", "carol")


@pytest.mark.django_db
def test_revokekey_takes_a_public_id_a_masked_key_or_the_key(alice) -> None:
    for name in (lambda key, _: key.public_id, lambda key, _: key.masked, lambda _, text: text):
        key, text = services.key_create(user=alice)
        other, _ = services.key_create(user=alice)
        out, _ = manage("revokekey", name(key, text))
        assert out == f"{key.masked} of 'alice' is revoked.\n"
        key.refresh_from_db()
        other.refresh_from_db()
        assert (key.status, other.status) == ("revoked", "usable")
        assert "was revoked already" in manage("revokekey", key.public_id)[0]


@pytest.mark.django_db
def test_revokekey_does_not_repeat_what_it_did_not_find(alice) -> None:
    services.key_create(user=alice)
    for wrong in ("nothing1", keys.new_key().text, ""):
        with pytest.raises(CommandError, match="There is no such key"):
            manage("revokekey", wrong)
    assert ApiKey.objects.get().revoked_at is None
