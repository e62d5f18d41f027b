"""Who asks: Bearer keys, and nothing else. No session cookie opens the API."""

from django.conf import settings
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts import keys, services
from accounts.errors import InvalidApiKey
from accounts.models import ApiKey, Limits, User

LIMITS = [field.name for field in Limits._meta.local_fields]


class ApiKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer sk-...` -> (user, ApiKey), with one query, at every request anew.

    Where the server lets anonymous requests in, one without the header is (anonymous user, None).
    Everything else raises InvalidApiKey (401), whose sentences show nothing of what was sent.
    """

    keyword = "Bearer"
    # What is asked of a key or its owner. To read and compose all columns takes longer.
    found_keys = ApiKey.objects.select_related("user").only(
        *("digest", "revoked_at", "expires_at", "last_used_at", "scopes", "allowed_models"),
        "for_playground",
        *("user__username", "user__is_active"),
        *LIMITS,
        *(f"user__{name}" for name in LIMITS),
    )

    def authenticate(self, request: Request) -> tuple[User, ApiKey | None]:
        header = request.META.get("HTTP_AUTHORIZATION")
        if header is None:
            return self.authenticate_anonymous(), None
        key = self.find_key(self.read_header(header))
        self.check(key)
        services.key_used(key)
        return key.user, key

    def authenticate_header(self, request: Request) -> str:
        return self.keyword

    def authenticate_anonymous(self) -> User:
        if not settings.LLMAPI.allow_anonymous:
            raise InvalidApiKey(
                "No API key was sent. Send yours in the header "
                "`Authorization: Bearer YOUR_API_KEY`."
            )
        user = services.anonymous_user()
        if not user.is_active:
            raise InvalidApiKey("Requests without an API key were switched off. Send an API key.")
        return user

    def read_header(self, header: str) -> keys.ParsedKey:
        words = header.split()
        if not words or words[0].lower() != self.keyword.lower():
            raise InvalidApiKey(
                "The Authorization header is not of the form `Authorization: Bearer YOUR_API_KEY`."
            )
        if len(words) == 1:
            raise InvalidApiKey("The Authorization header holds no API key after `Bearer`.")
        parsed = keys.parse(words[1]) if len(words) == 2 else None
        if parsed is None:
            raise refused(
                "This is not an API key of this server, or one with a typing error: "
                "it has the wrong form. Copy the whole key again"
            )
        return parsed

    def find_key(self, parsed: keys.ParsedKey) -> ApiKey:
        # Not `first`, which would sort the one row.
        key = next(iter(self.found_keys.filter(public_id=parsed.public_id)), None)
        if key is None or not keys.is_equal(key.digest, parsed.digest):
            raise refused("This API key is unknown. Ask the operator of this server for one")
        return key

    def check(self, key: ApiKey) -> None:
        """Only for a key that is proved: a stranger must not learn what became of a key."""
        if key.revoked_at is not None:
            raise refused("This API key was revoked. Use another one")
        if key.is_expired:
            raise refused("This API key has expired. Use another one")
        if not key.user.is_active:
            raise InvalidApiKey("The account that this API key belongs to is not active.")


def refused(sentence: str) -> InvalidApiKey:
    """Of a key that is not taken. Where none is needed, a client that must send something (an SDK
    with a placeholder) is in the way of its own request."""
    if settings.LLMAPI.allow_anonymous:
        sentence += ", or send no key: leave the Authorization header out"
    return InvalidApiKey(f"{sentence}.")
