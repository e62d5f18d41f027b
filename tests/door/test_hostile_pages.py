"""Pages and the admin, with addresses and forms that nobody would fill in so: never a 5xx.

Every page of `matrix.py` is asked with the names that it knows (those of its fields and links), at
values that are none. FUZZ_EXAMPLES: all values, not a few.
"""

import os
import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from itertools import cycle, islice
from typing import Any
from urllib.parse import quote, unquote

from tests.door.askers import Line
from tests.door.client import Answer, call
from tests.door.matrix import LINES
from tests.door.world import CSRF, World, filled

ALL = "FUZZ_EXAMPLES" in os.environ
FORM, PARTS = "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"

VALUES = [
    *(b"9223372036854775808", b"1" * 400, b"\xff\xfe", b"a" * 3000, b"", b"-1", b"1.5", b"\x00"),
    *(b"10000-01-01", b"2024-02-30", b"1-99999999999999999999", b"\xed\xa0\x80", b"NaN", b"null"),
    *("\u0661\u0662".encode(), b"'\"><script>", b"%s{}\\", b"\r\nX: y", b"../../x", b"_5F", b"id"),
]
OTHERS = {
    "pages": "older newer at before next range by page conversation q kind model key since until",
    "admin": "p o q all _to_field _popup e _facets _changelist_filters app_label model_name "
    "field_name term range action _selected_action index select_across confirmed grace",
}
"""What pages may read beside the names that stand on them."""

ENDS_SESSIONS = ("sign-out/", "admin/logout/")


class Names(HTMLParser):
    """Of fields and of links' queries."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, None] = {}
        self.feed(page)
        for query in re.findall(r'href="[^"?]*\?([^"]*)"', page):
            names = [pair.partition("=")[0] for pair in unescape(query).split("&")]
            self.found |= dict.fromkeys(names)
        self.found.pop("csrfmiddlewaretoken", None)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if name := dict(attrs).get("name"):
            self.found[name] = None


async def ask(method: str, path: str, session: str, body: bytes = b"", kind: str = FORM) -> Answer:
    headers = {
        "accept": "text/html",
        "cookie": f"sessionid={session}; csrftoken={CSRF}",
        "x-csrftoken": CSRF,
    }
    under_way = call(method, path, None, headers, content_type=kind)
    await under_way.send_body(body)
    return await under_way.answer()


def pairs(names: Any, value: bytes) -> str:
    return "&".join(f"{quote(name)}={quote(value)}" for name in names)


def asked(page: str, names: dict[str, None], values: Iterator[bytes]) -> Iterator[tuple[str, str]]:
    """(method, query or form)"""
    several = VALUES if ALL else [*islice(values, 2)]
    for value in several:
        # `e`: the list was asked wrongly, and is not looked up at all. `o`, `p` end it early too.
        yield "GET", pairs([name for name in names if name not in ("e", "o", "p")], value)
        yield "POST", pairs(names, value)
    for name in names if ALL else [*names][:: len(names) // 3]:
        for value in VALUES if ALL else [next(values)]:
            yield "GET", pairs([name], value)


def pages() -> Iterator[Line]:
    seen = set()
    for line in LINES:
        if line.is_page and line.route not in seen and line.route not in ENDS_SESSIONS:
            seen.add(line.route)
            yield line


async def test_names_that_a_page_knows_at_values_that_are_none(world: World) -> None:
    failed, values = [], cycle(VALUES)
    for line in pages():
        kind = "admin" if line.route.startswith("admin/") else "pages"
        session = world.sessions["superuser" if kind == "admin" else "owner"]
        objects = await world.objects(line)
        path = "/" + filled(line.path, objects).partition("?")[0]
        page = await ask("GET", path, session)
        assert page.status < 500, path
        names = Names(page.body.decode(errors="replace")).found
        names |= dict.fromkeys(OTHERS[kind].split())
        for method, sent in asked(path, names, values):
            query, body = ("", sent.encode()) if method == "POST" else (f"?{sent}", b"")
            answer = await ask(method, path + query, session, body)
            if answer.status >= 500:
                failed.append(f"{method} {path} {sent[:200]}")
    assert not failed, "\n".join(failed)


LISTS = [line for line in LINES if re.fullmatch(r"admin/\w+/\w+/", line.path)]
ROWS = [b"", b"x", b"-1", b"1.5", b"9" * 30, b"\xff", b"\x00", "\u0661".encode(), b"99999"]


async def test_actions_on_rows_that_are_none(world: World) -> None:
    """Of every list in the admin, every action."""
    tried = set()
    for line in LISTS:
        path = f"/{line.path}"
        page = (await ask("GET", path, world.sessions["superuser"])).body.decode()
        select = re.search(r'<select name="action".*?</select>', page, re.DOTALL)
        for action in re.findall(r'<option value="(\w+)"', select[0] if select else ""):
            tried.add(action)
            for row in ROWS:
                sent = f"action={action}&index=0&select_across=0&_selected_action={quote(row)}"
                answer = await ask("POST", path, world.sessions["superuser"], sent.encode())
                assert answer.status in (200, 302, 400), (path, action, row)
    assert {"export_selected", "erase_selected", "erase_texts", "rotate", "revoke"} <= tried


KNOWN = [
    "/admin/accounts/user/{user_pk}/change/?_to_field=",
    "/admin/accounts/apikey/?created_at__gte=1.5",
    "/admin/accounts/apikey/?created_at__lt=2026-01-01",
    "/admin/conversations/completion/?created_at__gte=10000-01-01",
    "/admin/conversations/conversation/?updated_at__lt=" + "1" * 400,
    "/admin/accounts/auditevent/?at__gte=%FF",
]
"""What was a 500, or a warning in the log."""


async def test_what_the_admin_once_broke_over_is_a_400(world: World) -> None:
    objects = await world.objects(LINES[0])
    for path in KNOWN:
        answer = await ask("GET", filled(path, objects), world.sessions["superuser"])
        assert answer.status == 400, path
    for user in ("id", "1.5", "%FF", "9" * 30):
        path = f"/admin/accounts/apikey/add/?user={user}"
        answer = await ask("GET", path, world.sessions["superuser"])
        assert answer.status == 200, path


def parts(*contents: bytes) -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in contents) + b"--x--\r\n"


def part(name: bytes, value: bytes = b"v", more: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="' + name + b'"' + more + b"\r\n\r\n" + value


BOUNDARIES = ["", "boundary=", "boundary=" + "x" * 500, "boundary=\u00e9", "boundary*=x'y'z"]
RAW_FORMS = [
    (FORM, b"\xff\xfe=\xff&name=\xed\xa0\x80"),
    (FORM, b"name=%zz&%=&&&==="),
    (FORM, b"&".join(b"a%d=1" % number for number in range(3000))),
    (FORM, b"name=" + b"x" * 3_000_000),
    *((f"{FORM}; charset={charset}", b"name=x") for charset in ("zlib", "utf-16", "undefined")),
    (f"{FORM}; charset*=x'y'z", b"name=x"),
    (PARTS, b""),
    (PARTS, parts(part(b"name", b"\xff\x00"))),
    (PARTS, parts(part(b"name"))[:-20]),
    (PARTS, parts(*(part(b"a%d" % number) for number in range(3000)))),
    (PARTS, parts(*(part(b"a%d" % number, more=b'; filename="f"') for number in range(300)))),
    (PARTS, parts(part(b"name", more=b'; filename="../../a\x00b"'))),
    (PARTS, parts(b"nonsense", b"\xff\xff: \x00\r\n\r\nv", part(b"name", more=b"; name*=x'y'z"))),
    (PARTS, parts(part(b"name", more=b"\r\nContent-Transfer-Encoding: base64") + b"!!!")),
    (PARTS, parts(part(b"name", more=b'; filename="f"\r\nContent-Type: a; charset=zlib'))),
    *((f"{PARTS}; charset={c}", parts(part(b"name"))) for c in ("zlib", "utf-7", "hex")),
    *((f"multipart/form-data; {b}", parts(part(b"name"))) for b in BOUNDARIES),
    ("application/json", b"{"),
    ("text/plain", b"name=x"),
    ("", b"name=x"),
]


FORMS = [
    ("nobody", "/sign-in/"),
    ("owner", "/keys/new/"),
    ("owner", "/keys/{key}/"),
    ("owner", "/history/{conversation}/rename/"),
    ("owner", "/password/"),
    ("owner", "/language/"),
    ("owner", "/playground/key/"),
    ("superuser", "/admin/accounts/user/add/"),
    ("superuser", "/admin/accounts/apikey/"),
    ("superuser", "/admin/conversations/conversation/export/"),
]


async def test_bodies_that_are_no_form(world: World) -> None:
    objects = await world.objects(LINES[0])
    for asker, path in FORMS:
        session = world.sessions.get(asker, "x")
        for kind, body in RAW_FORMS:
            answer = await ask("POST", filled(path, objects), session, body, kind)
            assert answer.status < 500, (path, kind[:80], body[:80])


IDS = [
    *("9" * 21, "9" * 400, "-1", "1.5", "%FF", "a" * 3000, "_5F", "%D9%A1", "%0D%0A"),
    *("1;2", "None", "..", "%2e%2e%2f", "%F0%9F%98%80", "'", "%25"),
]


async def test_ids_of_nothing_in_the_address_of_a_page(world: World) -> None:
    failed, ids = [], cycle(IDS)
    for line in pages():
        if "{" not in line.path:
            continue
        who = "superuser" if line.route.startswith("admin/") else "owner"
        for strange in IDS if ALL else islice(ids, 3):
            path = "/" + re.sub(r"\{\w+\}", strange, line.path)
            answer = await ask("GET", unquoted(path), world.sessions[who])
            if answer.status not in (302, 400, 404, 403, 405):
                failed.append(f"{path[:100]}: {answer.status}")
    assert not failed, "\n".join(failed)


def unquoted(path: str) -> str:
    address, _, query = path.partition("?")
    return f"{unquote(address)}?{query}"
