"""What every page carries: the policy that browsers keep, and its language."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.middleware.locale import LocaleMiddleware
from django.utils import translation
from django.utils.deprecation import MiddlewareMixin

HEADER = "Content-Security-Policy"
POLICY = {
    "default-src": "'self'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "object-src": "'none'",
    "frame-ancestors": "'none'",
    "form-action": "'self'",
    "base-uri": "'none'",
}

ALWAYS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
"""What else every answer has: of pages by Django's own middlewares, of what passes those by, by
whoever answers."""


def policy(**changes: str) -> str:
    """The header's value. `style_src="'self' 'unsafe-inline'"` changes one directive, for a page of
    others' making: such a view sets the header itself."""
    changed = {name.replace("_", "-"): value for name, value in changes.items()}
    return "; ".join(f"{name} {value}" for name, value in (POLICY | changed).items())


class QuickMiddleware(MiddlewareMixin):
    """Django's frame for hooks that wait for nothing, which are called where they stand. Its own
    would have a thread take up each of them, at every request."""

    def process_request(self, request: HttpRequest) -> HttpResponseBase | None:
        """An answer in place of the view's; None: go on."""
        return None

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        return response

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        get_response: Any = self.get_response
        response = self.process_request(request) or await get_response(request)
        return self.process_response(request, response)


class ContentSecurityPolicyMiddleware(QuickMiddleware):
    """Scripts and styles come from files of this server, and from nowhere else: text of a model or
    a user that gets into a page unescaped still runs nothing."""

    value = policy()

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        response.headers.setdefault(HEADER, self.value)
        return response


class PageLanguageMiddleware(LocaleMiddleware):
    """Pages in the language that their reader chose, or that the browser asks for; the API always
    in English, for its sentences are read by programs and in logs."""

    def process_request(self, request: HttpRequest) -> None:
        if is_api(request.path_info):
            translation.activate(settings.LANGUAGE_CODE)
            request.LANGUAGE_CODE = settings.LANGUAGE_CODE
        else:
            super().process_request(request)

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        if is_api(request.path_info):
            return response
        return super().process_response(request, response)


def is_api(path: str) -> bool:
    """Whether programs ask there: they get JSON, in English."""
    probes = ("/health/", "/ready/", "/metrics/")
    return f"{path}/".startswith(("/v1/", *probes, "/openapi.json/"))
