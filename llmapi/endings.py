"""How a request's end is written, however it came."""

import asyncio
import logging

from django.db import Error as DatabaseError

from accounts.limits.limiter import Reservation
from conversations.idempotency import Answered
from conversations.models import Completion
from conversations.services import CompletionEnd
from llmapi.errors import ApiError, EngineLost, ServerUnavailable, as_api_error
from llmapi.executors import database
from llmapi.outcomes import Outcome
from llmapi.reservations import finish_and_settle
from llmapi.running import running

logger = logging.getLogger(__name__)

Status = Completion.Status
FINISH_RETRIES_S = (0.05, 0.5, 2.0)


async def finish(outcome: Outcome, end: CompletionEnd) -> None:
    """Write the end of a request; a caller that is cancelled meanwhile waits for it."""
    outcome.status = end.status
    writing = running.start_write(write_end(outcome.completion_pk, end, outcome.reservation))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise


async def write_end(
    completion_pk: int, end: CompletionEnd, reservation: Reservation | None
) -> None:
    """Write the end of a request, again if the database stumbles, and settle what it held. Raises
    ServerUnavailable."""
    for pause_s in (*FINISH_RETRIES_S, None):
        try:
            await database.run(finish_and_settle, completion_pk, end, reservation)
            return
        except DatabaseError as error:
            if pause_s is None:
                logger.critical("The end of row %d waits", completion_pk, exc_info=error)
                running.start_write(write_end_at_last(completion_pk, end))
                raise ServerUnavailable(
                    "The answer was generated but could not be saved.", code="database_unavailable"
                ) from error
            await asyncio.sleep(pause_s)


async def write_end_at_last(completion_pk: int, end: CompletionEnd) -> None:
    """Go on trying, every second, after the client was told that its answer could not be saved. If
    this process ends before the database is back, another one finds the row left `running`."""
    while True:
        await asyncio.sleep(1)
        try:
            await database.run(finish_and_settle, completion_pk, end, None)
            return
        except DatabaseError:
            continue


async def end_abandoned(admitting: "asyncio.Task[Outcome | Answered]") -> None:
    """The client left during admission: nobody else would end its row, if it got one."""
    status = status_after(asyncio.CancelledError())
    await asyncio.wait([admitting])
    if admitting.exception() is not None:
        return  # nothing was accepted, and nobody waits for the reason
    outcome = admitting.result()
    if isinstance(outcome, Answered):
        return
    try:
        await write_end(outcome.completion_pk, outcome.end(status), outcome.reservation)
    except ServerUnavailable as error:
        logger.error("An abandoned request could not be ended: %s", error)


def status_after(error: BaseException) -> Completion.Status:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return Status.INTERRUPTED if running.expired else Status.CANCELLED
    return Status.INTERRUPTED if isinstance(error, EngineLost) else Status.FAILED


def sentence_about(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "The server was shut down." if running.expired else str(error)
    return (error if isinstance(error, ApiError) else as_api_error(error)).message
