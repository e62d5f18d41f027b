"""The translations of the pages: from the sources to the catalogues (.po), and to what Django reads
(.mo). Needs Babel (requirements-dev.txt), and no gettext; a running server needs neither.

Each app of the house has its own catalogue, `<app>/locale/zh_Hans/LC_MESSAGES/django.po`.
"""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

from babel.messages import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract
from babel.messages.pofile import read_po, write_po
from django.conf import settings
from django.utils.translation.template import templatize

APPS = ("accounts", "conversations", "llmapi")
LOCALE = "zh_Hans"
KEYWORDS: dict[str, Any] = {
    **DEFAULT_KEYWORDS,
    "gettext_lazy": None,
    "gettext_noop": None,
    "ngettext_lazy": (1, 2),
    "pgettext_lazy": ((1, "c"), 2),
    "npgettext_lazy": ((1, "c"), 2, 3),
}


def catalogue_path(app: str) -> Path:
    """Of the .po; the .mo stands beside it."""
    return settings.BASE_DIR / app / "locale" / LOCALE / "LC_MESSAGES" / "django.po"


def sources(app: str) -> list[Path]:
    """What may hold sentences of pages."""
    folder = settings.BASE_DIR / app
    files = [*folder.rglob("*.py"), *folder.rglob("templates/**/*.html")]
    return sorted(path for path in files if "migrations" not in path.parts)


def sentences(app: str) -> Catalog:
    """The sentences that the app's sources ask to have translated, without translations."""
    found = Catalog(locale=LOCALE, project="llmapi", charset="utf-8")
    for path in sources(app):
        text = path.read_text()
        if path.suffix == ".html":
            # Django makes something like Python of a template, with indentation that means nothing.
            lines = templatize(text, origin=str(path)).splitlines()
            text = "\n".join(line.lstrip() for line in lines)
        place = path.relative_to(settings.BASE_DIR).as_posix()
        for _, message, comments, context in extract(
            "python", BytesIO(text.encode()), keywords=KEYWORDS, options={"encoding": "utf-8"}
        ):
            flags = ["python-format"] if "%(" in str(message) else []
            found.add(
                message,
                locations=[(place, 0)],
                auto_comments=comments,
                context=context,
                flags=flags,
            )
    return found


def read(app: str) -> Catalog:
    """The catalogue as it is committed; an empty one if there is none."""
    path = catalogue_path(app)
    if not path.exists():
        return Catalog(locale=LOCALE, project="llmapi", charset="utf-8")
    with path.open("rb") as file:
        return read_po(file, locale=LOCALE)


def updated(app: str) -> Catalog:
    """The committed translations of the sentences that there are now. What is no longer asked for
    is gone, and nothing is guessed from sentences that look alike."""
    catalogue, old = sentences(app), read(app)
    for message in catalogue:
        known = old.get(message.id, context=message.context) if message.id else None
        if known is not None:
            message.string = known.string
    return catalogue


def untranslated(catalogue: Catalog) -> list[str]:
    """The sentences that have no translation, or not one for each plural."""
    missing: list[str] = []
    for message in catalogue:
        strings = message.string if isinstance(message.string, tuple) else (message.string,)
        if message.id and not (strings and all(strings)):
            missing.append(message.id if isinstance(message.id, str) else message.id[0])
    return missing


def header(catalogue: Catalog) -> str:
    """Nothing that changes by itself: no date, and no version of what wrote it."""
    lines = (
        "Language: zh_Hans",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        f"Plural-Forms: {catalogue.plural_forms}",
    )
    return "".join(f"{line}\n" for line in lines)


def po_bytes(catalogue: Catalog) -> bytes:
    """The catalogue for translators; the same for the same sentences, whenever it is made."""
    file = BytesIO()
    write_po(file, catalogue, omit_header=True, sort_output=True, include_lineno=False, width=100)
    lines = header(catalogue).splitlines()
    first = "".join(f'"{line}\\n"\n' for line in lines)
    return f'msgid ""\nmsgstr ""\n{first}\n'.encode() + file.getvalue()


def mo_bytes(catalogue: Catalog) -> bytes:
    """The catalogue for Django, in gettext's binary format: two tables of (length, offset), sorted
    by the originals, and the texts that they point to."""
    texts = {b"": header(catalogue).encode()}
    for message in catalogue:
        if not message.id or not message.string:
            continue
        original = message.id if isinstance(message.id, str) else "\0".join(message.id)
        strings = message.string if isinstance(message.string, str) else "\0".join(message.string)
        context = f"{message.context}\4" if message.context else ""
        texts[f"{context}{original}".encode()] = strings.encode()
    originals = sorted(texts)
    begin = 28
    offset = begin + 16 * len(originals)
    tables, body = [], b""
    for column in (originals, [texts[original] for original in originals]):
        for text in column:
            tables.append(struct.pack("<2I", len(text), offset + len(body)))
            body += text + b"\0"
    magic = struct.pack(
        "<7I", 0x950412DE, 0, len(originals), begin, begin + 8 * len(originals), 0, offset
    )
    return magic + b"".join(tables) + body
