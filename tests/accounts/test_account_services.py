"""Users and keys are made once, whoever else is making them."""

import contextlib
from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.auth import authenticate
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone

from accounts import keys, services
from accounts.errors import RateLimitExceeded
from accounts.models import ApiKey, User
from accounts.services import playground_keys
from llmapi.models import Adapter


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
def test_key_is_not_made_by_who_does_not_govern_its_owner(alice) -> None:
    clerk = User.objects.create_user("clerk", is_staff=True)
    old, _ = services.key_create(user=alice, created_by=clerk)
    User.objects.filter(pk=alice.pk).update(is_staff=True)  # after it was read
    with pytest.raises(PermissionDenied):
        services.key_create(user=alice, created_by=clerk)
    with pytest.raises(PermissionDenied):
        services.key_rotate(old, timedelta(days=1), created_by=clerk)
    old.refresh_from_db()
    assert (ApiKey.objects.count(), old.expires_at) == (1, None)
    services.key_create(user=alice, created_by=User.objects.get(pk=alice.pk))
    services.key_create(user=alice, created_by=User.objects.create_superuser("boss"))


@pytest.mark.django_db(transaction=True)
def test_no_key_slips_through_while_its_owner_becomes_staff(at_once) -> None:
    clerk = User.objects.create_user("clerk", is_staff=True)

    def promote_or_make_keys(index: int) -> None:
        user = User.objects.get(username=name)
        if index == 0:
            with transaction.atomic():
                User.objects.filter(pk=user.pk).update(is_staff=True)
                services.others_locked_out(user)
            return
        with contextlib.suppress(PermissionDenied):
            services.key_create(user=user, created_by=clerk)

    for round_ in range(5):
        name = f"user{round_}"
        User.objects.create_user(name)
        at_once(4, promote_or_make_keys)
    assert User.objects.filter(is_staff=True).count() == 6
    assert not ApiKey.objects.filter(revoked_at=None).exists()


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
        (["bob", "--scope", "all"], "invalid choice"),
        (["bob", "--model", " "], "name of a model"),
        (["bob", "--token-budget", "-1"], "from 0"),
        (["bob", "--requests-per-minute", "3000000000"], "to 2147483647"),
        (["bob", "--token-budget-period", "day"], "goes with --token-budget"),
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
def test_createkey_gives_rights_and_limits_that_keys_lists() -> None:
    flags = ["--scope", "chat", "--scope", "read-only", "--model", "gpt-4", "--model", "law"]
    flags += ["--requests-per-minute", "10", "--tokens-per-minute", "2000"]
    flags += ["--concurrent-requests", "0", "--token-budget", "3000000000"]
    createkey("bob", *flags, "--token-budget-period", "day")
    key = ApiKey.objects.get()
    assert (key.scopes, key.allowed_models) == (["chat", "read-only"], ["gpt-4", "law"])
    assert services.limits_of(key) == {
        "requests_per_minute": 10,
        "tokens_per_minute": 2000,
        "concurrent_requests": 0,
        "token_budget": 3_000_000_000,
        "token_budget_period": "day",
    }
    line = manage("keys")[0].splitlines()[1]
    assert "chat,read-only  gpt-4,law" in line
    assert "10 requests/min, 2000 tokens/min, 0 at once, 3000000000 tokens/day" in line


@pytest.fixture
def serving(settings):  # type: ignore[no-untyped-def]
    """serving(engine=..., model_aliases=..., ...)"""

    def set_to(**values: object) -> None:
        settings.LLMAPI = settings.LLMAPI.model_copy(update=values)

    return set_to


@pytest.mark.django_db
def test_createkey_tells_of_models_that_the_settings_do_not_serve(alice, serving, tmp_path) -> None:
    serving(engine="echo", model_aliases={"gpt-4": "echo"})
    out, err = createkey("alice", "--model", "gpt-4", "--model", "law")
    assert keys.parse(out.strip()) is not None, "it is made all the same"
    assert "the server serves echo, gpt-4: the key cannot use law until" in err
    Adapter.objects.create(name="law", path="law", added_by=alice)
    assert "cannot use law" in createkey("alice", "--model", "law")[1], "adding is off"
    serving(adapters_dir=tmp_path)
    for served in ("law", "gpt-4", "echo"):
        assert "cannot use" not in createkey("alice", "--model", served)[1]


@pytest.mark.django_db
def test_createkey_tells_nothing_of_models_that_it_cannot_know(alice, serving, tmp_path) -> None:
    serving(engine="local", base_model=str(tmp_path / "not mounted here"))
    assert "cannot use" not in createkey("alice", "--model", "law")[1]
    serving(base_model="org/llama", lora_models={"zh": "/models/zh"})
    _, err = createkey("alice", "--model", "law", "--model", "zh")
    assert "the server serves llama, zh: the key cannot use law until" in err


@pytest.mark.django_db
def test_rotated_key_is_the_old_one_anew_and_the_old_one_ends(alice) -> None:
    in_a_week = timezone.now() + timedelta(days=7)
    rights = {"scopes": ["chat"], "allowed_models": ["law"], "limits": {"token_budget": 5}}
    old, _ = services.key_create(user=alice, name="laptop", expires_at=in_a_week, **rights)
    new, text = services.key_rotate(old, timedelta(days=1), created_by=alice)
    old.refresh_from_db()
    assert new.digest == keys.digest(text) != old.digest
    for name in ("user", "name", "scopes", "allowed_models", "token_budget"):
        assert getattr(new, name) == getattr(old, name), name
    assert (new.expires_at, new.created_by, old.replaced_by) == (in_a_week, alice, new)
    assert timedelta(hours=23) < old.expires_at - timezone.now() <= timedelta(days=1)
    newest, _ = services.key_rotate(new, timedelta(days=30))
    new.refresh_from_db()
    assert (new.expires_at, newest.expires_at) == (in_a_week, in_a_week), "not longer than before"


@pytest.mark.django_db
def test_key_that_works_no_more_is_not_rotated(alice) -> None:
    revoked, _ = services.key_create(user=alice)
    services.key_revoke(revoked)
    expired, _ = services.key_create(user=alice, expires_at=timezone.now())
    rotated, _ = services.key_create(user=alice)
    services.key_rotate(rotated, timedelta(days=1))
    services.playground_key_create(alice)
    playground = ApiKey.objects.get(for_playground=True)
    count = ApiKey.objects.count()
    for key in (revoked, expired, rotated, playground):
        with pytest.raises(ValidationError):
            services.key_rotate(key, timedelta(days=1))
    fresh, _ = services.key_create(user=alice)
    with pytest.raises(ValidationError):
        services.key_rotate(fresh, timedelta(seconds=-1))
    assert ApiKey.objects.count() == count + 1


@pytest.mark.django_db(transaction=True)
def test_key_is_rotated_once_however_many_do_it_at_once(alice, at_once) -> None:
    key, _ = services.key_create(user=alice)

    def rotate(_: int) -> bool:
        try:
            services.key_rotate(ApiKey.objects.get(pk=key.pk), timedelta(days=1))
        except ValidationError:
            return False
        return True

    assert sorted(at_once(4, rotate)) == [False, False, False, True]
    assert ApiKey.objects.count() == 2


@pytest.mark.django_db
def test_rotatekey_prints_the_new_key_alone_on_stdout(alice) -> None:
    old, _ = services.key_create(user=alice, name="laptop")
    out, err = manage("rotatekey", old.masked, "--grace", "0")
    new = ApiKey.objects.get(digest=keys.digest(out.strip()))
    old.refresh_from_db()
    assert (old.status, new.status, new.name) == ("expired", "usable", "laptop")
    assert f"{new.masked} takes the place of {old.masked}" in err
    assert out.strip() not in err
    for wrong, word in ((["nothing1"], "no such key"), ([old.public_id], "expired")):
        with pytest.raises(CommandError, match=word):
            manage("rotatekey", *wrong)
    with pytest.raises(CommandError, match="number of hours"):
        manage("rotatekey", new.public_id, "--grace", "-1")


@pytest.mark.django_db
def test_playground_key_is_for_chats_for_an_hour_and_few_are_alive(alice) -> None:
    texts = [services.playground_key_create(alice) for _ in range(services.PLAYGROUND_KEYS + 2)]
    newest = ApiKey.objects.get(digest=keys.digest(texts[-1]))
    assert (newest.scopes, newest.for_playground, newest.created_by) == (["chat"], True, alice)
    assert newest.expires_at - newest.created_at <= timedelta(hours=1, seconds=1)
    alive = ApiKey.objects.filter(revoked_at=None)
    assert {key.digest for key in alive} == {*map(keys.digest, texts[2:])}
    assert "no keys" in manage("keys")[1]
    for nobody in (services.anonymous_user(), User(username="gone", is_active=False)):
        with pytest.raises(ValidationError):
            services.playground_key_create(nobody)


@pytest.mark.django_db
def test_key_with_unknown_scopes_or_models_without_names_is_not_made(alice) -> None:
    for wrong in ({"scopes": ["all"]}, {"allowed_models": [""]}, {"limits": {"token_budget": -1}}):
        with pytest.raises(ValidationError):
            services.key_create(user=alice, **wrong)
    assert not ApiKey.objects.exists()


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
    never = ["never", "never", "all", "all", "none"]
    assert first.split() == [new.public_id, "bob", "usable", *never]
    assert second.split() == [old.public_id, "alice", "revoked", *never, "laptop"]
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


@pytest.mark.django_db
def test_old_playground_keys_are_deleted_unless_something_was_asked_with_them(alice) -> None:
    texts = [services.playground_key_create(alice) for _ in range(3)]
    used = ApiKey.objects.get(digest=keys.digest(texts[0]))
    services.key_used(used)
    other, _ = services.key_create(user=alice, expires_at=timezone.now() - timedelta(days=2))
    ApiKey.objects.filter(for_playground=True).update(
        created_at=timezone.now() - timedelta(hours=2),
        expires_at=timezone.now() - timedelta(hours=1),
    )
    fresh = keys.digest(services.playground_key_create(alice))
    kept = set(ApiKey.objects.values_list("digest", flat=True))
    assert kept == {used.digest, other.digest, fresh}


@pytest.mark.django_db
def test_playground_makes_so_many_keys_an_hour_for_one_user(alice, monkeypatch) -> None:
    monkeypatch.setattr(playground_keys, "PLAYGROUND_KEYS_MADE", 3)
    for _ in range(3):
        services.playground_key_create(alice)
    with pytest.raises(RateLimitExceeded) as refused:
        services.playground_key_create(alice)
    assert refused.value.headers["Retry-After"] == "120"
    services.playground_key_create(User.objects.create_user("bob"))
    ApiKey.objects.update(created_at=timezone.now() - timedelta(hours=2))
    services.playground_key_create(alice)
