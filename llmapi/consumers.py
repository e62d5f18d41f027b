"""The life of a request at the door, from its first byte to the line in the log.

One consumer instance serves one request. Channels' own `AsyncHttpConsumer` awaits `handle` before
it reads the next message, and so would not hear a client leave; here the work is a task of its own.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from functools import partial
from io import BytesIO
from typing import Any, ClassVar

from channels.consumer import get_handler_name
from channels.exceptions import StopConsumer
from channels.generic.http import AsyncHttpConsumer
from django.conf import settings
from django.core.exceptions import PermissionDenied

from accounts import logs
from accounts.errors import InvalidApiKey, LimitReached
from accounts.limits.holders import holders_of
from accounts.limits.limiter import limiter
from accounts.models import ApiKey
from conversations.idempotency import Answered
from llmapi import metrics, sse
from llmapi.asgi import StrictRequest
from llmapi.bodies import RequestSerializer
from llmapi.completions import Asker, accept, admit
from llmapi.endings import status_after
from llmapi.errors import (
    ApiError,
    BodyTooLarge,
    InvalidRequest,
    Overloaded,
    ServerUnavailable,
    as_api_error,
    envelope,
)
from llmapi.finished import Finished
from llmapi.idempotency import REPLAYED, key_sent, use_of
from llmapi.lanes import known_keys, lane_of_user
from llmapi.outcomes import Outcome
from llmapi.parsers import parse_json
from llmapi.pending import Ticket, pending
from llmapi.replayer import replayer
from llmapi.request_ids import ids_of_client, new_request_id
from llmapi.running import running
from llmapi.views import DoorView

logger = logging.getLogger(__name__)

NO_STORE = (b"cache-control", b"no-store")


def nothing() -> None:
    """What is done where no server counts bodies."""


class ClientGone(Exception):
    """Nobody waits for the answer: what was not accepted yet need not be."""


class DoorConsumer(AsyncHttpConsumer):
    """Body in, answer out; every error leaves in OpenAI's envelope. Subclasses say what to
    answer."""

    view: ClassVar[type[DoorView]]
    body: list[bytes]
    """As far as it has come, and is not yet looked at."""

    asked: Any
    """The serializer of the body, once it was found valid."""

    request: Any
    """What it asks for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request_id = new_request_id()
        logs.request_id.set(self.request_id)  # of the task that this request alone has
        self.began = self.asked_at = time.monotonic()
        self.body_bytes = 0
        self.task: asyncio.Task[None] | None = None
        self.asker: Asker | None = None
        self.outcome: Outcome | None = None
        self.conversation_id: str | None = None
        self.answered: Answered | None = None
        """If the request was answered before, and that answer is sent again."""
        self.retold = b""
        """That answer, as it is sent."""

        self.limit_headers: dict[str, str] = {}
        self.status: int | None = None
        """Of the answer, once its headers were sent."""

    # ---- the life of a request ------------------------------------------------------------------

    async def http_request(self, message: dict[str, Any]) -> None:
        """Collect the body; start the work when it is complete."""
        if self.task is not None:
            return  # already answered that the body is too large
        piece = message.get("body", b"")
        self.body_bytes += len(piece)
        if self.body_bytes > settings.LLMAPI.max_body_bytes:
            limit = settings.LLMAPI.max_body_bytes
            error = BodyTooLarge(f"The request body may have {limit} bytes at most.")
            self.body.clear()
            self.start(self.send_error(error))
            return
        self.body.append(piece)
        if not message.get("more_body"):
            self.start(self.answer_or_error())

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self.asked_at = time.monotonic()
        self.task = running.start(work)
        self.task.add_done_callback(self.log)

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Channels' own has another thread look for database connections to close, at every
        message; those of this class are all on executors' threads."""
        await getattr(self, get_handler_name(message))(message)

    async def http_disconnect(self, message: dict[str, Any]) -> None:
        """The client left, or the answer is complete: daphne says the same of both. `reason`: why
        the client counts as gone, if it did not leave by itself."""
        if self.task is not None:
            self.task.cancel(message.get("reason"))
        raise StopConsumer

    async def answer_or_error(self) -> None:
        ticket = None
        try:
            running.check_open()
            replayer.check_done()
            own = settings.LLMAPI
            lane = known_keys.lane(self.authorization)
            ticket = pending.enter(lane, own.max_pending, own.max_pending_per_user)
            accepted = await admit(partial(self.accept, ticket), lane)
            self.scope.get("forget_body", nothing)()
            if isinstance(accepted, Answered):
                self.answered, self.conversation_id = accepted, accepted.conversation_id
                await self.answer_again()
            else:
                self.outcome, self.conversation_id = accepted, accepted.conversation_id
                await self.answer(accepted)
        except asyncio.CancelledError:
            if running.expired:  # it was the server that left, so the client still listens
                await self.send_error(ServerUnavailable("The server was shut down."))
            raise
        except Exception as error:
            await self.send_error(as_api_error(error))
        finally:
            if ticket is not None:
                ticket.leave(was_accepted=self.outcome is not None)

    def accept(self, ticket: Ticket) -> Outcome | Answered:
        """All that is done before anything is generated, in one go on a thread: who asks, for what,
        and that it is written down, or what was answered to it before."""
        self.check_still_there()  # it may have waited long for the thread
        self.asker = self.identify()
        try:
            ticket.move(lane_of_user(self.asker.user_id))
            key = key_sent(self.scope["headers"], is_anonymous=self.asker.is_anonymous)
            self.asked = self.validate(self.take_body())
            self.request = self.asked.to_request()
            self.check_still_there()
            asked = self.asked
            accepted = accept(
                self.asker,
                self.request,
                asked.kept_parameters,
                asked.streamed,
                asked.keeping,
                use_of(key, self.view.scope, asked.initial_data) if key else None,
            )
        except LimitReached:
            raise  # it has the headers itself
        except Exception:
            self.limit_headers = limiter.headers(self.asker.holders)
            raise
        if isinstance(accepted, Answered):
            self.limit_headers = limiter.headers(self.asker.holders)
            self.retold = self.retell(accepted.answer.encode())
        elif accepted.reservation is not None:
            self.limit_headers = accepted.reservation.headers
        return accepted

    def take_body(self) -> bytes:
        """What came; it is kept here no longer."""
        body, self.body = b"".join(self.body), []
        return body

    def check_still_there(self) -> None:
        if self.task is not None and self.task.cancelling():
            raise ClientGone

    def identify(self) -> Asker:
        """Who asks: DRF's authentication, permissions and throttles of the route's view class."""
        request = StrictRequest(self.scope, BytesIO())
        request.get_host()  # raises DisallowedHost
        if settings.SECURE_SSL_REDIRECT and not request.is_secure():
            raise InvalidRequest("Use https: a key that is sent over plain http can be read.")
        view = self.view()
        view.setup(request)
        drf_request = view.initialize_request(request)
        view.request = drf_request
        try:
            view.initial(drf_request)
        except InvalidApiKey:
            known_keys.forget(self.authorization)
            raise
        user = drf_request.user
        key = drf_request.auth if isinstance(drf_request.auth, ApiKey) else None
        if user.pk is None:  # the permission classes let nobody else in
            raise PermissionDenied
        known_keys.learn(self.authorization, user.pk)
        return Asker(
            user.pk,
            key.pk if key else None,
            self.request_id,
            holders_of(user, key),
            tuple(key.allowed_models) if key else (),
        )

    @property
    def authorization(self) -> bytes:
        return dict(self.scope["headers"]).get(b"authorization", b"")

    def validate(self, body: bytes) -> RequestSerializer:
        headers = dict(self.scope["headers"])
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        encoding = headers.get(b"content-encoding", b"").decode("latin-1")
        return self.view.serializer_class.read(parse_json(body, content_type, encoding))

    async def answer(self, outcome: Outcome) -> None:
        raise NotImplementedError

    def retell(self, answer: bytes) -> bytes:
        """The JSON of an answer that was kept, as this request wants it. On a thread, for it may be
        megabytes."""
        return answer

    async def answer_again(self) -> None:
        """As it was answered before: nothing is generated, and no limit counts it."""
        await self.send_whole(self.retold)

    def log(self, task: "asyncio.Task[None]") -> None:
        """One line for each request, when it is over, and what is counted of it."""
        finished = Finished(
            self.request_id,
            self.route,
            self.status,
            self.ending(task),
            time.monotonic() - self.began,
            self.asked_at,
            self.asker,
            self.outcome,
            self.answered,
            ids_of_client(self.header),
        )
        finished.log()
        finished.count()

    @property
    def route(self) -> str:
        path: str = self.scope["path"]
        return path.removeprefix(self.scope.get("root_path", ""))

    def header(self, name: str) -> str:
        """The value of the first header of that name; empty if there is none."""
        wanted = name.encode()
        values = (value for key, value in self.scope["headers"] if key == wanted)
        return next(values, b"").decode("latin-1")

    def ending(self, task: "asyncio.Task[None]") -> str:
        """How the request ended: as its row says; `replayed` if an earlier answer was sent again;
        `refused` if it was not accepted."""
        if self.answered is not None:
            return "replayed"
        if self.outcome is not None:
            return self.outcome.status
        return status_after(asyncio.CancelledError()) if task.cancelled() else "refused"

    # ---- sending --------------------------------------------------------------------------------

    def headers(self, content_type: bytes) -> list[tuple[bytes, bytes]]:
        processing_ms = round((time.monotonic() - self.began) * 1000)
        named = self.conversation_id
        return [
            *([(b"x-conversation-id", named.encode())] if named else []),
            *([REPLAYED] if self.answered else []),
            (b"content-type", content_type),
            (b"x-request-id", self.request_id.encode()),
            (b"openai-processing-ms", str(processing_ms).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"same-origin"),
            *((name.encode(), value.encode()) for name, value in self.limit_headers.items()),
        ]

    async def send_json(self, value: Any, status: int = 200, extra: Any = ()) -> None:
        await self.send_whole(sse.encode_json(value), status, extra)

    async def send_whole(self, body: bytes, status: int = 200, extra: Any = ()) -> None:
        body += b"\n"  # so that a shell prompt starts on a line of its own
        self.status = status
        length = (b"content-length", str(len(body)).encode())
        await self.send_response(
            status, body, headers=[*self.headers(b"application/json"), NO_STORE, length, *extra]
        )

    async def send_error(self, error: ApiError) -> None:
        """The envelope: as a response, or as an event once a stream has begun."""
        if error.status_code >= 500 and not isinstance(error, Overloaded):
            logger.warning("%s", error)
        metrics.error_sent(error.status_code, error.code, error.error_type)
        if self.status is not None:
            await self.send_body(sse.event(envelope(error)) + sse.DONE)
            return
        extra = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        await self.send_json(envelope(error), error.status_code, extra)
