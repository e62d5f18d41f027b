"""Django behind ASGI, with what it would break over refused in the envelope."""

from typing import Any

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.exceptions import BadRequest, SuspiciousFileOperation
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.utils.datastructures import MultiValueDict
from django.utils.http import parse_header_parameters

from accounts.middleware import ALWAYS, HEADER, policy
from llmapi.errors import ApiError, InvalidRequest, json_error

UTF_8 = ("utf-8", "utf8")


class StrictRequest(ASGIRequest):
    """A request in UTF-8. Django's own decodes a body by whatever codec of Python's its
    Content-Type names: `charset=zlib` among them. Raises InvalidRequest."""

    def __init__(self, scope: Any, body_file: Any) -> None:
        try:
            super().__init__(scope, body_file)
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                "The query string is not ASCII: write %XX for its bytes."
            ) from error

    def _set_content_type_params(self, meta: Any) -> None:
        header = meta.get("CONTENT_TYPE", "")
        try:
            self.content_type, self.content_params = parse_header_parameters(header)
        except ValueError:  # of a parameter's charset, as RFC 2231 writes it
            self.content_type, self.content_params = "", {}

    def _load_post_and_files(self) -> None:
        charset = (self.content_params or {}).get("charset", UTF_8[0])
        if self.method == "POST" and charset.lower() not in UTF_8:
            self._post = QueryDict()
            self._files: MultiValueDict[str, Any] = MultiValueDict()
            raise BadRequest("Forms are in UTF-8 here.")
        super()._load_post_and_files()


async def send_response(response: HttpResponse, send: Any) -> None:
    """A whole response, from where neither Django's handler nor its middlewares are passed."""
    for name, value in {**ALWAYS, "X-Frame-Options": settings.X_FRAME_OPTIONS}.items():
        response[name] = value
    response["Content-Length"] = str(len(response.content))
    headers = [(name.lower().encode(), value.encode()) for name, value in response.items()]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})


class StrictHandler(ASGIHandler):
    request_class = StrictRequest

    def create_request(self, scope: Any, body_file: Any) -> Any:
        try:
            return super().create_request(scope, body_file)
        except ApiError as error:
            return None, json_error(error)


class StaticFiles(ASGIStaticFilesHandler, StrictHandler):  # type: ignore[misc]  # Django's mixin
    """The files below /static/, and another application for all else. Django's middleware does not
    see them."""

    def serve(self, request: HttpRequest) -> Any:
        try:
            return super().serve(request)
        except SuspiciousFileOperation as error:  # `/static/../`
            raise Http404 from error

    async def get_response_async(self, request: Any) -> Any:
        response = await super().get_response_async(request)
        for name, value in {HEADER: policy(), **ALWAYS}.items():  # there are pages among them
            response.headers.setdefault(name, value)
        return response
