"""The playground in a real browser, against a real server."""

import contextlib
import io
import re
import subprocess
from collections.abc import Iterator

import pytest
from selenium.webdriver.common.keys import Keys

from tests.serve.server import until

pytestmark = pytest.mark.browser

LONG = " ".join(f"word{number}" for number in range(2000))
HOSTILE = (
    '<img src=x onerror="window.hacked = 1"><script>window.hacked = 2</script>\n'
    "[link](javascript:window.hacked=3) <b>bold</b> **<i>strong</i>** `<u>code</u>`\n"
    '- <svg onload="window.hacked = 4">\n\n'
    '```"onmouseover="window.hacked=5"\n</code><script>window.hacked = 6</script>\n```'
)


@contextlib.contextmanager
def limits(sql, **values: int) -> Iterator[None]:
    """Of alice's account, meanwhile."""
    change = "UPDATE accounts_user SET {} = ? WHERE username = 'alice'"
    for name, value in values.items():
        sql(change.format(name), value)
    try:
        yield
    finally:
        for name in values:
            sql(change.format(name), None)


def test_an_answer_streams_and_tells_what_it_took(alice) -> None:
    alice.say(LONG)
    alice.until(lambda: alice.answers() and "word5" in alice.answers()[0], "the first words come")
    assert "word1999" not in alice.answers()[0]
    alice.click("#stop")
    alice.until(alice.is_idle, "it stopped")
    assert alice.chat("one two three") == "one two three"
    assert re.search(r"3 tokens in, 3 out.*tokens/s.*first after [\d.]+ s", alice.facts())


def test_stop_keeps_what_came_and_the_row_says_cancelled(alice, sql) -> None:
    alice.say(LONG)
    alice.until(lambda: alice.answers() and "word5" in alice.answers()[0], "the first words come")
    alice.press(Keys.ESCAPE)
    alice.until(alice.is_idle, "it stopped")
    kept = alice.answers()[0]
    assert kept.startswith("word0 word1 ")
    assert "word1999" not in kept
    assert "stopped" in alice.facts()

    def last_status() -> object:
        return sql("SELECT status FROM conversations_completion ORDER BY id DESC LIMIT 1")[0][0]

    until(lambda: last_status() == "cancelled", "the row says that it was cancelled")
    assert alice.answers()[0] == kept
    # And the chat goes on after it.
    assert alice.chat("Go on") == "Go on"


def test_loaded_again_the_page_tells_what_became_of_each_answer(alice, sql) -> None:
    alice.chat("one two")
    alice.say(LONG)
    alice.until(lambda: len(alice.answers()) > 1 and "word5" in alice.answers()[1], "words come")
    alice.press(Keys.ESCAPE)
    alice.until(alice.is_idle, "it stopped")

    def last_status() -> object:
        return sql("SELECT status FROM conversations_completion ORDER BY id DESC LIMIT 1")[0][0]

    until(lambda: last_status() == "cancelled", "the row says that it was cancelled")
    alice.open(alice.driver.current_url.removeprefix(alice.url))
    assert alice.texts("#thread .pg-message[data-role=assistant] .pg-who") == ["echo", "echo"]
    assert "2 tokens in, 2 out" in alice.facts(0)
    assert "stopped" in alice.facts(1)


def test_a_new_chat_may_begin_in_the_middle_of_an_answer(alice) -> None:
    alice.say(LONG)
    alice.until(lambda: alice.answers() and "word5" in alice.answers()[0], "the first words come")
    alice.click("#new-chat")
    assert alice.answers() == []
    assert alice.chat("Another one") == "Another one"
    assert alice.answers() == ["Another one"]


def test_hostile_text_is_shown_and_never_runs(alice) -> None:
    answer = alice.chat(HOSTILE)
    assert '<img src=x onerror="window.hacked = 1">' in answer
    assert '<svg onload="window.hacked = 4">' in answer
    assert "</code><script>window.hacked = 6</script>" in answer
    assert alice.questions() == [HOSTILE]
    # Loaded again, the same text comes from the server, within a script element of JSON.
    alice.open(alice.driver.current_url.removeprefix(alice.url))
    assert alice.questions() == [HOSTILE]
    assert alice.answers() == [answer]
    made = "img, script, b, i, u, svg:not(.icon), a, [onmouseover], [onerror]"
    assert alice.js(f"return document.querySelectorAll('#thread :is({made})').length") == 0
    assert alice.js("return window.hacked") is None


def test_markup_of_answers_becomes_code_lists_and_bold(alice) -> None:
    alice.chat("Say **so**, with `x = 1`:\n\n- one\n- two\n\n```python\nprint('hi')\n```\nEnd")
    inside = ".pg-message[data-role=assistant] "
    assert alice.texts(inside + "strong") == ["so"]
    assert alice.texts(inside + "p code") == ["x = 1"]
    assert alice.texts(inside + "ul li") == ["one", "two"]
    assert alice.texts(inside + ".code pre code") == ["print('hi')"]
    assert alice.texts(inside + ".code-head > span") == ["python"]


def test_enter_sends_and_neither_shift_nor_a_word_being_composed_does(alice) -> None:
    alice.click("#prompt")
    alice.press("one", Keys.SHIFT + Keys.ENTER)
    alice.press("two")
    assert alice.questions() == []
    # An input method for Chinese: its Enter takes the letters, and is told as key 229.
    composing = {"selectionStart": 2, "selectionEnd": 2, "text": "ni"}
    alice.driver.execute_cdp_cmd("Input.imeSetComposition", composing)
    for kind in ("isComposing: true", "keyCode: 229"):
        alice.js(
            "document.getElementById('prompt').dispatchEvent(new KeyboardEvent('keydown',"
            f"{{key: 'Enter', bubbles: true, cancelable: true, {kind}}}))"
        )
    assert alice.questions() == []
    alice.driver.execute_cdp_cmd("Input.insertText", {"text": "你"})
    alice.press(Keys.ENTER)
    alice.until(lambda: alice.questions() == ["one\ntwo你"], "it is sent")
    alice.until(lambda: alice.is_idle() and alice.answers() == ["one\ntwo你"], "answered")


def test_the_key_is_in_memory_alone_and_renewed_when_it_ends(alice, sql) -> None:
    before = sql("SELECT count(*) FROM accounts_apikey WHERE for_playground")[0][0]
    alice.chat("one")
    alice.chat("two")
    # Made when it was first needed, and used again.
    made = sql("SELECT count(*) FROM accounts_apikey WHERE for_playground")[0][0]
    assert made == before + 1
    assert "sk-" not in alice.js("return document.documentElement.outerHTML")
    assert "sk-" not in alice.driver.current_url
    kept = alice.js("return JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert "sk-" not in kept
    assert "sk-" not in str(alice.driver.get_cookies())
    sql("UPDATE accounts_apikey SET revoked_at = '2000-01-01' WHERE for_playground")
    assert alice.chat("three") == "three"
    assert sql("SELECT count(*) FROM accounts_apikey WHERE for_playground")[0][0] == made + 1
    alice.complaints()  # of the 401 that it met


def test_who_signed_out_elsewhere_is_told_so_and_goes_on_later(alice) -> None:
    cookie = alice.driver.get_cookie("sessionid")
    alice.driver.delete_cookie("sessionid")
    alice.say("Hello")
    alice.until(lambda: "You are signed out" in alice.text(".pg-notice"), "told")
    alice.driver.add_cookie(cookie)
    alice.click_word(".pg-message button", "Try again")
    alice.until(lambda: alice.answers() == ["Hello"] and alice.is_idle(), "answered")
    assert alice.find(".pg-notice") is None
    alice.complaints()  # of the 401


def test_a_limit_is_told_with_the_time_to_wait(alice, sql) -> None:
    alice.chat("one")
    with limits(sql, requests_per_minute=1):
        alice.chat("two")
        alice.say("three")
        told = r"^You may send 1 requests a minute\. Wait for \d+ s, then try again\.$"
        alice.until(lambda: re.search(told, alice.text(".pg-notice")), "told")
    alice.click_word(".pg-message button", "Try again")
    alice.until(lambda: alice.is_idle() and alice.answers()[-1] == "three", "answered")
    alice.complaints()  # of the 429


def test_an_answer_that_may_be_too_long_is_told_in_the_words_of_the_page(alice, sql) -> None:
    with limits(sql, tokens_per_minute=1200):
        alice.fill("max_tokens", "2000")
        alice.say("Hello")
        told = (
            "This chat and the longest answer to it come to 2,001 tokens; you may use 1,200 a "
            "minute. Set a smaller “Longest answer”, or begin a new chat."
        )
        alice.until(lambda: alice.text(".pg-notice") == told, "told")
        assert alice.js("return document.activeElement.name") == "max_tokens"
        alice.fill("max_tokens", "20")
        alice.click_word(".pg-message button", "Try again")
        alice.until(lambda: alice.is_idle() and alice.answers() == ["Hello"], "answered")
    alice.complaints()  # of the 429


def test_a_budget_is_told_in_the_readers_language(alice, sql) -> None:
    alice.driver.find_element("css selector", "[data-menu] summary").click()
    alice.click("button[name=language][value=zh-hans]")
    alice.until(lambda: alice.js("return document.documentElement.lang") == "zh-Hans", "Chinese")
    alice.fill("max_tokens", "500")
    alice.chat("one two")
    used = "SELECT sum(prompt_tokens + completion_tokens) FROM conversations_completion"
    whose = "user_id = (SELECT id FROM accounts_user WHERE username = 'alice')"
    spent = sql(f"{used} WHERE {whose}")[0][0]
    month = r"\d+年\d+月1日 \d\d:\d\d"
    left = rf"共需 501 个 token，而在 {month} 之前，您的 token 预算还剩 30 个。"
    used_up = rf"^您的 token 预算已用完，将于 {month} 重新开始。$"
    for tokens, told in ((30, left + "请调小“回答长度上限”"), (0, used_up)):
        alice.click("#new-chat")
        with limits(sql, token_budget=spent + tokens):
            alice.say("three")
            alice.until(lambda told=told: re.search(told, alice.text(".pg-notice")), "told")
    alice.complaints()  # of the 429


def test_a_lost_network_is_told(alice) -> None:
    alice.chat("one")
    away = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    there = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    alice.driver.execute_cdp_cmd("Network.enable", {})
    alice.driver.execute_cdp_cmd("Network.emulateNetworkConditions", away)
    alice.say("two")
    alice.until(lambda: "cannot be reached" in alice.text(".pg-notice"), "told")
    alice.driver.execute_cdp_cmd("Network.emulateNetworkConditions", there)
    assert alice.answers() == ["one"]
    alice.click_word(".pg-message button", "Try again")
    alice.until(lambda: alice.is_idle() and alice.answers() == ["one", "two"], "answered")
    alice.complaints()


def test_what_the_server_refuses_is_shown_at_its_field(alice) -> None:
    alice.fill("num_beams", "17")
    alice.write("Hello")
    alice.press(Keys.ENTER)
    assert alice.questions() == []  # the browser itself knows the bounds
    assert alice.js("return document.activeElement.name") == "num_beams"
    alice.fill("num_beams", "")
    alice.fill("stop", "\n".join("abcde"))
    alice.click("#send")
    alice.until(lambda: "The server says: 'stop' may hold 4" in alice.text(".pg-notice"), "told")
    assert alice.js("return document.activeElement.name") == "stop"
    alice.click("[type=reset]")
    assert alice.js("return document.getElementById('p-stop').value") == ""
    alice.complaints()  # of the 400


def test_answers_are_made_again_and_questions_edited(alice, sql) -> None:
    alice.chat("one")
    alice.chat("two")
    alice.click_word(".pg-message button", "Answer again")
    alice.until(alice.is_idle, "answered again")
    assert alice.answers() == ["one", "two"]
    versions = "SELECT count(*) FROM conversations_message WHERE parent_id = (SELECT parent_id FROM"
    newest = "conversations_message ORDER BY id DESC LIMIT 1)"
    assert sql(f"{versions} {newest}") == [(2,)]
    first = alice.driver.find_element("css selector", ".pg-message[data-role=user]")
    next(b for b in first.find_elements("tag name", "button") if b.text == "Edit").click()
    alice.press(" more", Keys.ENTER)
    alice.until(lambda: alice.is_idle() and alice.answers() == ["one more"], "answered")
    assert alice.questions() == ["one more"]
    alice.click("#new-chat")
    assert alice.questions() == []
    assert "conversation" not in alice.driver.current_url


def test_a_conversation_is_loaded_and_goes_on_as_the_same_one(alice, sql) -> None:
    alice.fill("system", "Be brief.")
    alice.chat("one")
    address = alice.driver.current_url.removeprefix(alice.url)
    assert "conversation=conv_" in address
    count = "SELECT count(*) FROM conversations_conversation"
    before = sql(count)
    alice.open(address)
    assert (alice.questions(), alice.answers()) == (["one"], ["one"])
    assert alice.js("return document.getElementById('system').value") == "Be brief."
    alice.chat("two")
    assert sql(count) == before
    assert alice.driver.current_url == alice.url + address


def test_the_code_shown_makes_the_same_request(alice, server) -> None:
    alice.fill("temperature", "0.5")
    alice.fill("top_k", "7")
    alice.js("document.getElementById('model').value = 'gpt-4'")
    alice.write('It\'s "quoted" \\ and 中文\nwith lines')
    alice.click("#show-code")
    key = server.new_key("programmer")
    curl = alice.texts("#code-curl")[0].replace("YOUR_API_KEY", key)
    assert '"top_k": 7' in curl
    done = subprocess.run(["bash", "-c", f"{curl} -s"], capture_output=True, text=True, timeout=30)
    for word in ("It's ", '\\"quoted\\" ', "中文"):
        assert word in done.stdout
    assert "[DONE]" in done.stdout
    python = alice.texts("#code-python")[0].replace("YOUR_API_KEY", key)
    assert "temperature=0.5" in python
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(python, {})
    assert printed.getvalue() == 'It\'s "quoted" \\ and 中文\nwith lines'


def test_scrolling_up_is_not_fought(alice) -> None:
    alice.write("\n\n".join(f"word{number}" for number in range(600)))
    alice.click("#send")
    alice.until(lambda: alice.js("return scrollY") > 3000, "the page follows")
    alice.js("scrollTo(0, 100)")
    alice.until(lambda: alice.find("#down"), "a way back is offered")
    at = len(alice.answers()[0])
    alice.until(lambda: len(alice.answers()[0]) > at, "more comes")
    assert alice.js("return scrollY") == 100
    alice.click("#down")
    alice.until(lambda: alice.find("#down") is None, "at the end again")
    alice.press(Keys.ESCAPE)
    alice.until(alice.is_idle, "it stopped")
