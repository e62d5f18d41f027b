"""What the playground's script says, in the reader's language. {names} are filled in by it."""

from django.utils.translation import gettext as _


def limits() -> dict[str, str]:
    """Of the limits of users. “Longest answer” is a field of the page."""
    return {
        "limited": _("You have reached a limit."),
        "limited_wait": _("You have reached a limit. Wait for {seconds} s, then try again."),
        "limit_nothing": _(
            "The limits of your account allow nothing. Ask the operator of this server."
        ),
        "limit_at_once": _(
            "You may have {limit} requests at once, and so many are being answered. Wait until one "
            "of them has ended."
        ),
        "limit_requests": _(
            "You may send {limit} requests a minute. Wait for {seconds} s, then try again."
        ),
        "limit_tokens": _(
            "You may use {limit} tokens a minute, of questions and answers, and have used {used}. "
            "Wait for {seconds} s, then try again."
        ),
        "limit_too_large": _(
            "This chat and the longest answer to it come to {asked} tokens; you may use {limit} a "
            "minute. Set a smaller “Longest answer”, or begin a new chat."
        ),
        "limit_reserved": _(
            "What is left of your token budget is set aside for requests that are being answered. "
            "Wait until one of them has ended."
        ),
        "limit_budget": _(
            "This chat and the longest answer to it come to {asked} tokens; of your token budget "
            "{left} are left until {until}. Set a smaller “Longest answer”, or begin a new chat."
        ),
        "limit_budget_used": _("Your token budget is used up. It begins anew on {until}."),
    }


def words() -> dict[str, str]:
    return {
        # Who says it, and what may be done with it.
        "you": _("You"),
        "model": _("Model"),
        "copy": _("Copy"),
        "copied": _("Copied"),
        "edit": _("Edit"),
        "again": _("Answer again"),
        "retry": _("Try again"),
        "send": _("Send"),
        "cancel": _("Cancel"),
        "editing": _("Edit your message"),
        "code": _("Code"),
        # How an answer came.
        "answering": _("The model is answering"),
        "answered": _("The answer is complete"),
        "tokens": _("{prompt} tokens in, {answer} out"),
        "rate": _("{rate} tokens/s"),
        "first": _("first after {seconds} s"),
        "stopped": _("stopped"),
        "interrupted": _("interrupted"),
        "cut": _("cut off at the longest answer"),
        "stopped_early": _("Stopped before the first word."),
        "empty_answer": _("The model ended its answer without a word."),
        # What went wrong.
        **limits(),
        "unavailable": _("The server cannot answer at the moment. Try again soon."),
        "lost": _("The connection was lost. What had come until then is kept."),
        "unreachable": _("The server cannot be reached. Check your connection, then try again."),
        "signed_out": _("You are signed out. Sign in again in another tab, then try again."),
        "old_page": _("This page is too old. Load it again."),
        "key_refused": _("The server refused the key of this page."),
        "wrong": _("The server did not take this request."),
        "failed": _("The server could not finish this answer."),
        "no_models": _("No model is ready at the moment. Load the page again soon."),
        "server_says": _("The server says: {message}"),
        "context": _("{tokens} tokens of context"),
        "stands_for": _("another name of {model}"),
        "adapter_of": _("an adapter on {model}"),
    }
