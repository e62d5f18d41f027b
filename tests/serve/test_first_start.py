"""The first start on an empty directory, and those after it."""

import re
import stat

import httpx

from tests.serve.asking import CHAT, bearer, chat, post, run_curl

STAFF = re.compile(r"/admin/   user (\S+)   password (\S+)")
KEY = re.compile(r"API key       (sk-\S+)")


def test_the_first_start_prints_a_staff_user_who_can_sign_in(server):
    ((username, password),) = STAFF.findall(server.out)
    with httpx.Client(base_url=server.url, timeout=30) as browser:
        form = browser.get("/admin/", follow_redirects=True)
        answer = browser.post(
            "/sign-in/",
            data={
                "next": "/admin/",
                "username": username,
                "password": password,
                "csrfmiddlewaretoken": browser.cookies["csrftoken"],
            },
        )
        assert form.status_code == 200
        assert (answer.status_code, answer.headers["location"]) == (302, "/admin/")
        assert browser.get("/admin/").status_code == 200


def test_the_printed_curl_commands_work_as_printed(server):
    commands = re.findall(r"^curl .+?(?=\n\n)", server.out, re.MULTILINE | re.DOTALL)
    assert len(commands) == 3
    chat_answer, completion, embeddings = map(run_curl, commands)
    assert chat_answer["object"] == "chat.completion"
    assert chat_answer["choices"][0]["message"]["content"]
    assert completion["object"] == "text_completion"
    assert completion["choices"][0]["text"]
    assert len(embeddings["data"][0]["embedding"]) == 64


def test_secrets_are_readable_by_their_owner_alone(server):
    assert stat.S_IMODE((server.var_dir / "secret_key").stat().st_mode) == 0o600
    assert stat.S_IMODE(server.var_dir.stat().st_mode) == 0o700


def test_neither_key_nor_password_is_kept_in_clear_or_logged(server, history):
    (key,) = KEY.findall(server.out)
    ((_, password),) = STAFF.findall(server.out)
    stored = repr(history.rows("SELECT * FROM accounts_apikey"))
    stored += repr(history.rows("SELECT * FROM accounts_user"))
    for secret in (key, key.removeprefix("sk-")[8:], password):
        assert secret not in server.err
        assert secret not in stored


def test_a_new_key_is_printed_alone_and_opens_the_door(server):
    printed = server.manage("createkey", "bob", "--name", "laptop")
    assert re.fullmatch(r"sk-\w+\n", printed)
    assert post(server.url, printed.strip(), CHAT, chat(2)).status_code == 200


def test_a_later_start_prints_no_user_and_no_key(anonymous_server, server, key):
    assert not STAFF.search(anonymous_server.out)
    assert not KEY.search(anonymous_server.out)
    assert "password" not in anonymous_server.out
    # It is the same house: keys and secret key go on.
    assert post(anonymous_server.url, key, CHAT, chat(2)).status_code == 200
    models = httpx.get(f"{anonymous_server.url}/v1/models", headers=bearer(key), timeout=30)
    assert models.status_code == 200
