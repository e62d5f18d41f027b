"""What clients are told of the texts being made. Knows no torch."""

from llmapi.engine.messages import (
    Answer,
    Event,
    Finish,
    FinishReason,
    PromptLogprobs,
    TextDelta,
    TokenLogprob,
)
from llmapi.engine.sequence import Sequence


class Answers:
    """Everything that the next `StepOutput` tells, in its order.

    What a text holds back (half a character, what may become a stop string) stands in its sequence.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []

    def __bool__(self) -> bool:
        return bool(self._events)

    def tell(self, *events: Event) -> None:
        self._events += events

    def forget(self, request_id: str) -> None:
        """Whatever was to be told of this request is not."""
        self._events = [event for event in self._events if event.request_id != request_id]

    def take(self) -> tuple[Event, ...]:
        events, self._events = tuple(self._events), []
        return events

    # ---- of one sequence -------------------------------------------------------------------------

    def extend(
        self, sequence: Sequence, token: int, logprob: TokenLogprob | None
    ) -> FinishReason | None:
        """Give a sequence its new token, tell what came of it, and say whether that was its end."""
        params, detokenizer = sequence.params, sequence.detokenizer
        if params is None or detokenizer is None:
            raise TypeError("nothing is drawn for an input to embed")
        sequence.tokens.append(token)
        sequence.unreported_tokens += 1
        if logprob is not None:
            _keep_logprob(sequence, logprob, detokenizer.made)
        ended = token in sequence.ends
        text = "" if ended else detokenizer.push(token)
        full = sequence.drawn == params.max_tokens
        if (ended or full) and not detokenizer.stopped:
            text += detokenizer.finish()
        told = _ripe(sequence, at_end=ended or full) if sequence.untold else ()
        if text or told:
            self._tell_text(sequence, text, told)
        if ended or detokenizer.stopped:
            return FinishReason.STOP
        return FinishReason.LENGTH if full else None

    def tell_prompt(self, sequence: Sequence) -> None:
        """The log probabilities of its prompt, all at once."""
        told = tuple(sequence.prompt_logprobs)
        self._answer(sequence, PromptLogprobs(sequence.request_id, sequence.index, told))

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self._answer(
            sequence,
            Finish(
                sequence.request_id,
                sequence.index,
                reason,
                prompt_tokens=sequence.prompt_tokens,
                completion_tokens=sequence.drawn,
                cached_tokens=sequence.cached_tokens or 0,
            ),
        )

    def _tell_text(self, sequence: Sequence, text: str, told: tuple[TokenLogprob, ...]) -> None:
        drawn, sequence.unreported_tokens = sequence.unreported_tokens, 0
        self._answer(sequence, TextDelta(sequence.request_id, sequence.index, text, drawn, told))

    def _answer(self, sequence: Sequence, event: Answer) -> None:
        candidates = sequence.candidates
        if candidates is None:
            self._events.append(event)
            return
        candidates.hold(event)
        if not candidates.running:
            self._events += candidates.best()


def _keep_logprob(sequence: Sequence, logprob: TokenLogprob, place: int) -> None:
    """`place`: where in the text the token begins."""
    if sequence.candidates is not None and logprob.logprob is not None:
        sequence.candidates.draw(sequence.index, logprob.logprob)
    if sequence.params is not None and sequence.params.logprobs is not None:
        sequence.untold.append((place, logprob))


def _ripe(sequence: Sequence, *, at_end: bool) -> tuple[TokenLogprob, ...]:
    """Tokens that are now known to belong to the answer: some text from where they begin is sent.

    At the end all others do too, unless a stop string has cut them off.
    """
    untold, detokenizer = sequence.untold, sequence.detokenizer
    if detokenizer is None:
        return ()
    count = sum(place < detokenizer.sent for place, _ in untold)
    if at_end and not detokenizer.stopped:
        count = len(untold)
    ripe, sequence.untold = untold[:count], untold[count:]
    return tuple(logprob for _, logprob in ripe)
