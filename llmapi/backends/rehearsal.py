"""The chat template is tried with the model's own tokenizer before the first request comes."""

from collections.abc import Iterator

from llmapi.backends.base import ChatMessage
from llmapi.backends.prompt import PromptEncoder
from llmapi.backends.templates import BUILT_IN, is_refusal

QUESTION = (ChatMessage("user", "Hello."),)
TALK = (
    ChatMessage("system", "Be brief."),
    *QUESTION,
    ChatMessage("assistant", "Hello to you."),
    ChatMessage("user", "How are you?"),
)


def template_obstacle(encoder: PromptEncoder) -> str | None:
    """A sentence with what to do, if the template cannot write a chat of one question."""
    try:
        text = encoder.render_chat(QUESTION)
    except Exception as error:
        if is_refusal(error):
            return None  # it works, and wants other chats than this
        reason = f"fails on a chat of one message: {type(error).__name__}: {error}"
    else:
        # In whatever case: a template may well shout.
        if QUESTION[0].text.casefold() in text.casefold():
            return None
        reason = "leaves out what the user says (is a variable misspelt? The chat is 'messages')"
    return f"{named(encoder)} {reason.rstrip('.')}. {remedy(encoder)}"


def template_warnings(encoder: PromptEncoder) -> Iterator[str]:
    """Sentences about ordinary chats that the template does not write."""
    for kind, chat in (
        ("of one message by a user", QUESTION),
        ("with a system message and two questions", TALK),
    ):
        try:
            encoder.render_chat(chat)
        except Exception as error:
            does = "refuses" if is_refusal(error) else "fails on"
            reason = str(error) if is_refusal(error) else f"{type(error).__name__}: {error}"
            yield f"WARNING: {named(encoder)} {does} a chat {kind}: {reason}"


def named(encoder: PromptEncoder) -> str:
    name = encoder.template.name
    if name == "tokenizer":
        return f"The chat template of the tokenizer in '{encoder.tokenizer.name_or_path}'"
    return f"The chat template '{name}' (--prompt_template)"


def remedy(encoder: PromptEncoder) -> str:
    mend = "" if encoder.template.name == "tokenizer" else "Mend it, or c"
    return (
        f"{mend or 'C'}hoose another with --prompt_template (LLMAPI_PROMPT_TEMPLATE): "
        f"{', '.join(BUILT_IN)}, or a file with a jinja template."
    )
