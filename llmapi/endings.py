"""How a request's end is written, however it came."""

import asyncio
import logging
import time

from django.db import Error as DatabaseError
from django.utils import timezone

from conversations.idempotency import Answered
from conversations.models import Completion
from conversations.processes.journal import Ended, journal
from conversations.services import ChoiceEnd, CompletionEnd, NewCompletion
from llmapi.errors import ApiError, EngineLost, ServerUnavailable, as_api_error
from llmapi.executors import database, disk
from llmapi.metrics import end_write_s
from llmapi.outcomes import Outcome
from llmapi.replayer import NOT_ACCEPTED, replayer
from llmapi.reservations import append_and_settle, finish_and_settle
from llmapi.running import running

logger = logging.getLogger(__name__)

Status = Completion.Status
FINISH_RETRIES_S = (0.05, 0.5, 2.0)
DATABASE_HAS_S = 5.0
"""A database that is silent, or that another keeps locked, gets no more of a client's time."""


async def finish(outcome: Outcome, end: CompletionEnd) -> None:
    """Write the end of a request; a caller that is cancelled meanwhile waits for it."""
    outcome.status = end.status
    began = time.monotonic()
    writing = running.start_write(write_end(outcome, end))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise
    finally:
        end_write_s.observe(time.monotonic() - began)


async def write_end(outcome: Outcome, end: CompletionEnd) -> None:
    """Write the end of a request into the database, or, if that does not take it within some
    seconds, into the journal: then it cannot be lost any more. What the request held is settled.
    Raises ServerUnavailable: neither takes it."""
    try:
        async with asyncio.timeout(DATABASE_HAS_S):
            await write_into_database(outcome, end)
        return
    except (TimeoutError, DatabaseError) as error:
        why = error if str(error) else f"no answer within {DATABASE_HAS_S:g} s"
        logger.error("The end of %s goes into the journal: %s", outcome.public_id, why)
    ended = Ended(outcome.public_id, end)
    try:
        await disk.run(
            append_and_settle,
            ended if outcome.keeping.keeps_text else ended.without_text(),
            outcome.reservation,
        )
    except OSError as error:
        logger.critical("Nor does the journal take it: %s", error)
        raise ServerUnavailable(
            "The answer was generated but could not be saved.", code="database_unavailable"
        ) from error
    finally:
        replayer.start()


async def write_into_database(outcome: Outcome, end: CompletionEnd) -> None:
    """Again, if the database stumbles. A try that was given up may succeed later: it is the same
    end. Raises what the database does."""
    for pause_s in (*FINISH_RETRIES_S, None):
        try:
            await database.run(finish_and_settle, outcome.completion_pk, end, outcome.reservation)
            return
        except DatabaseError:
            if pause_s is None:
                raise
            await asyncio.sleep(pause_s)


def end_if_there(new: NewCompletion, choices: int) -> None:
    """Of a request whose row may have been committed, or not, while its client is told that it is
    not accepted: nobody else would end it. Blocks; the replayer does the rest."""
    end = CompletionEnd(
        status=Status.FAILED,
        choices=tuple(ChoiceEnd(index, "", None) for index in range(choices)),
        prompt_tokens=new.prompt_tokens,
        completion_tokens=0,
        first_token_ms=None,
        duration_ms=None,
        error=NOT_ACCEPTED,
        ended_at=timezone.now(),
    )
    try:
        journal.append(Ended(new.public_id, end))
    except OSError as error:
        logger.critical("The journal does not take the end of %s: %s", new.public_id, error)


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
        await write_end(outcome, outcome.end(status))
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
