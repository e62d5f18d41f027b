"""Who is let in, and what those who are not are told."""

from datetime import timedelta

import pytest
from django.test import RequestFactory
from django.utils import timezone
from rest_framework.request import Request

from accounts import keys, services
from accounts.authentication import ApiKeyAuthentication
from accounts.errors import InvalidApiKey
from accounts.limits.holders import holders_of
from accounts.models import ApiKey, User

pytestmark = pytest.mark.django_db


def authenticate(header: str | None):  # type: ignore[no-untyped-def]
    extra = {} if header is None else {"HTTP_AUTHORIZATION": header}
    request = RequestFactory().post("/v1/chat/completions", **extra)
    return ApiKeyAuthentication().authenticate(Request(request))


def refusal(header: str | None) -> str:
    with pytest.raises(InvalidApiKey) as caught:
        authenticate(header)
    assert caught.value.status_code == 401
    assert caught.value.headers["WWW-Authenticate"] == "Bearer"
    return caught.value.message


@pytest.fixture
def anonymous_allowed(settings) -> None:  # type: ignore[no-untyped-def]
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"allow_anonymous": True})


def test_key_brings_its_user_with_one_query(alice, django_assert_num_queries) -> None:
    key, text = services.key_create(user=alice)
    services.key_used(key)
    with django_assert_num_queries(1):
        user, found = authenticate(f"Bearer {text}")
        assert (user, found, user.username) == (alice, key, "alice")
        assert (found.allowed_models, holders_of(user, found)) == ([], ())


def test_word_bearer_is_taken_in_any_case(alice) -> None:
    _, text = services.key_create(user=alice)
    assert authenticate(f"bearer {text}")[0] == alice


def test_wrong_checksum_is_refused_without_a_query(alice, django_assert_num_queries) -> None:
    _, text = services.key_create(user=alice)
    with django_assert_num_queries(0):
        refusal(f"Bearer {text[:-1]}{'0' if text[-1] != '0' else '1'}")


def test_every_refusal_has_its_own_sentence_and_shows_nothing_of_the_key(alice) -> None:
    bob = User.objects.create_user("bob", is_active=False)
    past = timezone.now() - timedelta(seconds=1)
    revoked, revoked_text = services.key_create(user=alice)
    services.key_revoke(revoked)
    _, expired_text = services.key_create(user=alice, expires_at=past)
    _, inactive_text = services.key_create(user=bob)
    unknown_text = keys.new_key().text
    headers = {
        "none": (None, None),
        "empty": ("", None),
        "other scheme": (f"Basic {unknown_text}", unknown_text),
        "no key": ("Bearer ", None),
        "malformed": (f"Bearer {unknown_text[:-2]}", unknown_text),
        "unknown": (f"Bearer {unknown_text}", unknown_text),
        "revoked": (f"Bearer {revoked_text}", revoked_text),
        "expired": (f"Bearer {expired_text}", expired_text),
        "inactive": (f"Bearer {inactive_text}", inactive_text),
    }
    sentences = {}
    for case, (header, text) in headers.items():
        sentences[case] = refusal(header)
        if text is not None:
            assert text[3:11] not in sentences[case]
            assert text[-4:] not in sentences[case]
    assert "revoked" in sentences["revoked"]
    assert "expired" in sentences["expired"]
    assert "not active" in sentences["inactive"]
    assert "unknown" in sentences["unknown"]
    assert not any("send no key" in sentence for sentence in sentences.values())
    assert sentences["empty"] == sentences["other scheme"]
    assert len(set(sentences.values())) == len(sentences) - 1


def test_right_public_id_with_another_secret_is_unknown(alice) -> None:
    key, _ = services.key_create(user=alice)
    body = "sk-" + key.public_id + "0" * keys.SECRET_LENGTH
    assert "unknown" in refusal(f"Bearer {body}{keys.checksum(body)}")


def test_two_keys_in_one_header_are_refused(alice) -> None:
    _, text = services.key_create(user=alice)
    refusal(f"Bearer {text} {text}")
    refusal(f"Bearer {text},Bearer {text}")


def test_revocation_and_deactivation_are_seen_by_the_next_request(alice) -> None:
    key, text = services.key_create(user=alice)
    other, other_text = services.key_create(user=alice)
    assert authenticate(f"Bearer {text}")[1] == key
    services.key_revoke(key)
    refusal(f"Bearer {text}")
    assert authenticate(f"Bearer {other_text}")[1] == other
    User.objects.filter(pk=alice.pk).update(is_active=False)
    refusal(f"Bearer {other_text}")


def test_session_cookie_is_no_key(staff_client, settings) -> None:
    request = RequestFactory().get("/v1/models")
    request.COOKIES = {k: v.value for k, v in staff_client.cookies.items()}
    with pytest.raises(InvalidApiKey):
        ApiKeyAuthentication().authenticate(Request(request))


def test_without_a_key_nobody_is_let_in_by_default(db) -> None:
    refusal(None)
    assert not User.objects.exists()


@pytest.mark.usefixtures("anonymous_allowed")
class TestAnonymousAllowed:
    def test_request_without_header_is_the_anonymous_user_who_cannot_sign_in(self) -> None:
        user, key = authenticate(None)
        assert (user.username, key, user.has_usable_password()) == ("anonymous", None, False)
        assert authenticate(None)[0] == user
        assert User.objects.count() == 1

    def test_a_key_still_counts(self, alice) -> None:
        key, text = services.key_create(user=alice)
        assert authenticate(f"Bearer {text}") == (alice, key)

    def test_a_bad_key_is_401_all_the_same(self, alice) -> None:
        key, text = services.key_create(user=alice)
        services.key_revoke(key)
        for header in (f"Bearer {text}", f"Bearer {text[:-1]}", "Bearer ", "", "Basic YTpi"):
            refusal(header)

    def test_a_placeholder_is_told_that_no_key_is_needed(self) -> None:
        for placeholder in ("EMPTY", keys.new_key().text):
            assert refusal(f"Bearer {placeholder}").endswith(
                ", or send no key: leave the Authorization header out."
            )

    def test_switched_off_by_deactivating_the_user(self) -> None:
        User.objects.filter(pk=services.anonymous_user().pk).update(is_active=False)
        assert "switched off" in refusal(None)


def test_last_used_is_written_at_most_once_a_minute(alice, django_assert_num_queries) -> None:
    key, text = services.key_create(user=alice)
    authenticate(f"Bearer {text}")
    first = ApiKey.objects.get(pk=key.pk).last_used_at
    assert first is not None
    with django_assert_num_queries(1):
        authenticate(f"Bearer {text}")
    assert ApiKey.objects.get(pk=key.pk).last_used_at == first
    ApiKey.objects.filter(pk=key.pk).update(last_used_at=first - timedelta(seconds=61))
    authenticate(f"Bearer {text}")
    assert ApiKey.objects.get(pk=key.pk).last_used_at >= first


def test_schema_names_the_bearer_scheme() -> None:
    from drf_spectacular.authentication import OpenApiAuthenticationExtension

    extension = OpenApiAuthenticationExtension.get_match(ApiKeyAuthentication())
    assert extension is not None
    assert extension.get_security_definition(None)["scheme"] == "bearer"
