"""Text that means harm, wherever pages show it: it is shown, and nothing of it runs, becomes an
element, is loaded, or turns what stands beside it."""

import csv
import io
import json
import re
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.browser.chromium import look
from tests.browser.hostile import HARM, LONG, MARK, SHORT, TEXT
from tests.browser.reader import Reader

pytestmark = pytest.mark.browser

FILL = "from tests.browser.hostile import fill; fill()"
PAGES = (
    "/",
    "/keys/",
    "/keys/{key}/",
    "/keys/{key}/rotate/",
    "/keys/{key}/revoke/",
    "/usage/?range=24h&by=model",
    "/usage/?range=24h&by=key",
    "/history/",
    f"/history/?q={MARK}",
    f"/history/?q={quote(TEXT[:190])}",
    f"/history/?model={quote(TEXT)}&key={quote(TEXT)}",
    "/history/requests/",
    f"/history/requests/?q={MARK}",
    f"/history/requests/?kind={quote(TEXT)}",
    "/history/{conversation}/",
    "/history/{conversation}/delete/",
    "/history/{conversation}/messages/{message}/",
    "/history/requests/{plain}/",
    "/history/requests/{plain}/delete/",
    "/history/requests/{embedding}/",
    "/playground/?conversation={conversation}",
)
ADMIN = (
    "",
    "accounts/user/",
    "accounts/user/{user_pk}/change/",
    "accounts/user/{user_pk}/history/",
    "accounts/user/{user_pk}/password/",
    "accounts/apikey/",
    "accounts/apikey/{key_pk}/change/",
    f"accounts/apikey/?q={MARK}",
    "accounts/auditevent/",
    "accounts/auditevent/{event_pk}/change/",
    "accounts/invitation/",
    "accounts/invitation/{invitation_pk}/change/",
    "conversations/conversation/",
    f"conversations/conversation/?user={quote(TEXT[:150])}",
    f"conversations/conversation/?q={quote(TEXT[:190])}&key={quote(TEXT)}&reviewer={quote(TEXT)}",
    "conversations/conversation/{conversation_pk}/change/",
    "conversations/conversation/{conversation_pk}/history/",
    f"conversations/conversation/export/?user={quote(TEXT[:150])}&q={quote(TEXT[:190])}",
    "conversations/completion/",
    f"conversations/completion/?model={quote(TEXT[:200])}",
    "conversations/completion/{chat_pk}/change/",
    "conversations/completion/{plain_pk}/change/",
    "conversations/completion/{embedding_pk}/change/",
    "conversations/label/",
    "conversations/label/{label_pk}/change/",
    "conversations/label/{label_pk}/history/",
    "conversations/label/{label_pk}/delete/",
    "conversations/serverprocess/",
    "conversations/serverprocess/{process_pk}/change/",
    "llmapi/adapter/",
)
DJANGOS = ("/history/", "/password/")
"""Pages of the admin that are Django's own."""

OPEN_PAGES = (
    f"/sign-in/?next={quote('javascript:window.hacked=1//' + TEXT)}",
    f"/nothing/{quote(TEXT)}/",
    f"/sign-up/{quote(SHORT)}/",
)


@pytest.fixture(scope="module")
def places(server) -> dict[str, Any]:
    """Where the hostile texts are: ids by name."""
    found: dict[str, Any] = json.loads(server.manage("shell", "-v0", "-c", FILL))
    return found


def sign_in(reader: Reader, session: str) -> None:
    reader.driver.delete_all_cookies()
    reader.driver.add_cookie({"name": "sessionid", "value": session})


def harm_done(
    reader: Reader, paths: list[str], refused: str = "nothing is"
) -> dict[str, list[str]]:
    """{page: what went wrong there, on a phone}. refused: a pattern of complaints about the page
    itself."""
    look(reader.driver, 390, 844)
    harmed = {}
    for path in paths:
        reader.open(path)
        found: list[str] = reader.js(HARM)
        found += [line for line in reader.complaints() if not re.search(refused, line)]
        if not reader.driver.current_url.startswith(reader.url):
            found.append(f"is elsewhere: {reader.driver.current_url}")
        if MARK not in reader.driver.page_source + reader.driver.current_url:
            found.append("shows nothing of it")
        if reader.is_too_wide() and not path.endswith(DJANGOS):
            found.append("is wider than the phone")
        if found:
            harmed[path] = found
    return harmed


def test_harm_is_found_where_there_is_some(reader) -> None:
    reader.open("/sign-in/")
    harmless = TEXT.partition("<iframe")[0].replace("<script>", "").replace("</script>", "")
    reader.js("document.body.innerHTML = `<p>${arguments[0]}<b>beside it</b></p>`", harmless)
    found = "\n".join(reader.js(HARM))
    for kind in ("made: <img", "made: <b class", "made: <svg", "made: <a href", "turns what is"):
        assert kind in found
    reader.open("/health")  # by then, the browser has said all that it has to say of it
    assert any("Content Security Policy" in line for line in reader.complaints())


def test_users_pages_show_it_and_run_nothing(reader, places) -> None:
    sign_in(reader, places["user"])
    harmed = harm_done(reader, [path.format(**places) for path in PAGES])
    assert harmed == {}, json.dumps(harmed, indent=1)


def test_pages_of_staff_show_it_and_run_nothing(reader, places) -> None:
    sign_in(reader, places["staff"])
    harmed = harm_done(reader, ["/admin/" + path.format(**places) for path in ADMIN])
    assert harmed == {}, json.dumps(harmed, indent=1)


def test_addresses_that_mean_harm_lead_nowhere_else(reader) -> None:
    harmed = harm_done(reader, list(OPEN_PAGES), refused=r"status of 4\d\d")
    assert harmed == {}, json.dumps(harmed, indent=1)
    reader.open(OPEN_PAGES[0])
    reader.fill("username", "bob")
    reader.fill("password", "not this one " + SHORT)
    reader.driver.find_element("css selector", "form.form").submit()
    reader.until(lambda: reader.find(".notice"), "told that it does not fit")
    assert reader.js(HARM) + reader.complaints() == []


def test_what_forms_hand_back_runs_nothing(reader, places) -> None:
    sign_in(reader, places["user"])
    reader.open(f"/history/{places['conversation']}/")
    reader.fill("title", "\u200b" + TEXT.replace("\n", " ")[:150])
    reader.driver.find_element("css selector", "form[action$='/rename/']").submit()
    reader.until(lambda: "renamed" in reader.text("main"), "renamed")
    assert reader.js(HARM) + reader.complaints() == []
    sign_in(reader, places["staff"])
    page = f"/admin/conversations/conversation/{places['conversation_pk']}/change/"
    reader.open(page)
    reader.js("document.querySelector('[name=version]').value = 'another one'")
    reader.fill("new_labels", SHORT + "x" * 50)
    reader.fill("notes", TEXT.replace("\u2028", ""))
    reader.click("#review button[name=next]")
    reader.until(lambda: reader.find("#review .errorlist"), "labels that long are refused")
    assert reader.js(HARM) + reader.complaints() == []
    reader.fill("new_labels", SHORT)
    reader.click("#review button[name=next]")
    reader.until(lambda: reader.find(".history-conflict"), "what the other saved is shown")
    found = [line for line in reader.complaints() if "status of 409" not in line]
    assert reader.js(HARM) + found == []


def test_exports_are_files_that_hold_it_whole(server, places) -> None:
    with httpx.Client(base_url=server.url, cookies={"sessionid": places["user"]}) as user:
        texts = []
        for path in (
            "/history/export/",
            f"/history/{places['conversation']}/export/",
            "/history/requests/export/",
            f"/history/requests/{places['plain']}/export/",
        ):
            answer = user.get(path)
            check_file(answer, "application/jsonl")
            texts += [json.loads(line) for line in answer.text.split("\n") if line]
        held = [message["content"] for line in texts for message in line.get("messages", [])]
        assert {TEXT, LONG} <= {text for text in held if isinstance(text, str)}
        assert [TEXT, LONG] in [line.get("prompt") for line in texts]
        message = user.get(f"/history/{places['conversation']}/messages/{places['message']}/")
        assert message.headers["content-type"] == "text/plain; charset=utf-8"
        assert message.headers["x-content-type-options"] == "nosniff"
    with httpx.Client(base_url=server.url, cookies={"sessionid": places["staff"]}) as staff:
        for model, kind in (("conversation", "application/jsonl"), ("completion", "text/csv")):
            page = staff.get(f"/admin/conversations/{model}/export/?user={quote(TEXT[:150])}")
            token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
            assert token is not None
            answer = staff.post(str(page.url), data={"csrfmiddlewaretoken": token[1]})
            check_file(answer, kind)
        rows = list(csv.reader(io.StringIO(answer.text, newline="")))
        assert len(rows) == 5
        assert {len(row) for row in rows} == {len(rows[0])}
        cells = [cell for row in rows[1:] for cell in row]
        assert "'" + TEXT[:100] in cells
        assert not [cell for cell in cells if cell.strip()[:1] in tuple("=+-@")]


def check_file(answer: httpx.Response, kind: str) -> None:
    assert answer.status_code == 200
    assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"
