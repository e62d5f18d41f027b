"""What people and programs do with secrets, carelessly too: keys made in every way and sent to
every wrong place, passwords typed into the wrong field, links, and faults of every kind meanwhile.
"""

import contextlib
import json
import os
import re
import secrets
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import psycopg

from tests.engine import tiny
from tests.serve.asking import CHAT, COMPLETIONS, EMBEDDINGS, bearer, chat, streaming
from tests.serve.history import History
from tests.serve.leaks import Search
from tests.serve.server import MANAGE, PROJECT_DIR, ServerUnderTest, until

BREAKS = "BREAKTHETEMPLATE"
REFUSED_ROW = "REFUSETHEROW"
REFUSED_END = "REFUSETHEEND"
KEY = re.compile(r"sk-[0-9A-Za-z]{46}")
LINK = re.compile(r"https?://[^\s\"'<]+(/(?:password|sign-up)/[^\s\"'<]+)")
HREF = re.compile(r"href=\"([^\"#]+)\"")

Ways = dict[str, str]


def password() -> str:
    return f"{secrets.token_urlsafe(9)} horse {secrets.token_urlsafe(6)}"


def write_model(directory: Path) -> Path:
    """A tiny one, whose template breaks over some messages and quotes them in its error."""
    tiny.write_random(directory)
    broken = "{% for m in messages %}{% if '" + BREAKS + "' in m.content %}{{ {}[m.content].x }}"
    template = broken + "{% endif %}{% endfor %}" + tiny.CHATML
    (directory / "chat_template.jinja").write_text(template)
    return directory


# ---- the database refuses -----------------------------------------------------------------------


def refuse(server: ServerUnderTest) -> None:
    """From now on it takes neither messages nor ends with these words in them: PostgreSQL quotes
    the whole row in its error."""
    if server.database_url is None:
        statements = [
            "CREATE TRIGGER refuse_row BEFORE INSERT ON conversations_message"
            f" WHEN NEW.content LIKE '%{REFUSED_ROW}%' BEGIN SELECT RAISE(ABORT, 'refused'); END",
            "CREATE TRIGGER refuse_end BEFORE UPDATE ON conversations_completion"
            f" WHEN NEW.status <> 'running' AND NEW.metadata LIKE '%{REFUSED_END}%'"
            " BEGIN SELECT RAISE(ABORT, 'refused'); END",
        ]
    else:
        statements = [
            "ALTER TABLE conversations_message ADD CONSTRAINT refuse_row"
            f" CHECK (content::text NOT LIKE '%{REFUSED_ROW}%')",
            "ALTER TABLE conversations_completion ADD CONSTRAINT refuse_end"
            f" CHECK (status = 'running' OR metadata::text NOT LIKE '%{REFUSED_END}%')",
        ]
    run_sql(server, statements)


def allow(server: ServerUnderTest) -> None:
    if server.database_url is None:
        run_sql(server, ["DROP TRIGGER refuse_row", "DROP TRIGGER refuse_end"])
    else:
        tables = {"refuse_row": "conversations_message", "refuse_end": "conversations_completion"}
        run_sql(
            server,
            [f"ALTER TABLE {table} DROP CONSTRAINT {name}" for name, table in tables.items()],
        )


def run_sql(server: ServerUnderTest, statements: list[str]) -> None:
    if server.database_url is None:
        with closing(sqlite3.connect(server.var_dir / "db.sqlite3", timeout=20)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        return
    with psycopg.connect(server.database_url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


# ---- people -------------------------------------------------------------------------------------


class Visitor:
    """A browser. What it is answered is searched, but where a new secret is shown."""

    def __init__(self, url: str, search: Search, name: str) -> None:
        self.search, self.name = search, name
        self.http = httpx.Client(
            base_url=url, timeout=60, headers={"Accept": "text/html"}, follow_redirects=False
        )

    def get(self, path: str) -> httpx.Response:
        answer = self.http.get(path)
        self.look(f"GET {urlsplit(path).path}", answer)
        return answer

    def post(
        self, path: str, data: dict[str, Any], *, csrf: bool = True, shows: bool = False
    ) -> httpx.Response:
        """`shows`: a new secret, once; whoever asked plants it."""
        if csrf:
            self.http.get(path)
            token = self.http.cookies.get("csrftoken", "")
            data = {**data, "csrfmiddlewaretoken": token}
        answer = self.http.post(path, data=data)
        if not shows:
            self.look(f"POST {urlsplit(path).path}", answer)
        if session := self.http.cookies.get("sessionid"):
            self.search.plant(f"session of {self.name}", session, is_kept=True)
        return answer

    def look(self, place: str, answer: httpx.Response) -> None:
        headers = [f"{n}: {v}" for n, v in answer.headers.items() if n != "set-cookie"]
        # A page that was asked by a link of its own may name that link, in the form's address.
        besides = tuple(s.name for s in self.search.secrets if s.text in str(answer.request.url))
        where = f"answer to {self.name}: {place.replace(answer.request.url.path, '...')}"
        self.search.look(where, "\n".join([*headers, answer.text]), besides=besides)

    def sign_in(self, username: str, word: str) -> None:
        answer = self.post("/sign-in/", {"username": username, "password": word})
        assert answer.status_code == 302, answer.text

    def fail_to_sign_in(self, username: str) -> None:
        wrong, mistaken = self.search.plant(f"wrong password of {username}", password()), password()
        for name, word in ((username, wrong), (mistaken, wrong), (username, mistaken)):
            assert self.post("/sign-in/", {"username": name, "password": word}).status_code == 200
        # Only now, for whoever has typed it is shown the name that was not found.
        self.search.plant("password typed in place of a name", mistaken)

    def crawl(self, *starts: str, most: int) -> int:
        """Pages that can be reached by links from these; returns how many."""
        waiting, seen, read = [*starts], {*starts}, 0
        while waiting and read < most:
            read += 1
            path = waiting.pop(0)
            answer = self.get(path)
            if "text/html" not in answer.headers.get("content-type", ""):
                continue
            for link in HREF.findall(answer.text):
                target = urlsplit(
                    urljoin(f"{self.http.base_url}{path.lstrip('/')}", unescape(link))
                )
                found = target.path + (f"?{target.query}" if target.query else "")
                is_own = target.netloc == urlsplit(str(self.http.base_url)).netloc
                if is_own and found not in seen and not target.path.startswith("/static/"):
                    seen.add(found)
                    waiting.append(found)
        return read


@dataclass
class Careless:
    """All of it, on one server, whose variables name a SECRET_KEY and passwords for its database
    and for Redis."""

    server: ServerUnderTest
    search: Search
    is_quick: bool = False
    """Fewer keys in wrong places, fewer pages, fewer commands."""

    def __post_init__(self) -> None:
        self.keys: dict[str, str] = {}
        self.said = 0
        self.most_keys, self.most_pages = (2, 40) if self.is_quick else (100, 500)

    # ---- the start ------------------------------------------------------------------------------

    def first_start(self) -> None:
        self.server.start()
        url = self.server.wait_ready()
        self.shown_at_start = ("first password", "first key")
        (self.first_password,) = re.findall(r"password (\S+)", self.server.out)
        self.search.plant("first password", self.first_password)
        self.keys["first key"] = self.search.plant_key("first key", KEY.findall(self.server.out)[0])
        self.boss = Visitor(url, self.search, "admin")
        self.alice = Visitor(url, self.search, "alice")
        self.stranger = Visitor(url, self.search, "a stranger")

    def close(self) -> None:
        self.server.end()
        for visitor in (self.boss, self.alice, self.stranger):
            visitor.http.close()

    def start_again(self, **variables: str) -> None:
        self.server.variables |= variables
        self.server.start()
        url = self.server.wait_ready()
        for visitor in (self.boss, self.alice, self.stranger):
            visitor.http.base_url = httpx.URL(url)

    def command(self, *arguments: str) -> str:
        """What a command prints on stdout, which may be a secret; what it says besides is
        searched."""
        done = subprocess.run(
            [sys.executable, *MANAGE, *arguments],
            cwd=PROJECT_DIR,
            env=self.server.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.search.look(f"stderr of {arguments[0]}", done.stderr, logs=True)
        return done.stdout.strip()

    # ---- people ---------------------------------------------------------------------------------

    def people(self) -> None:
        self.boss.fail_to_sign_in("admin")
        self.boss.sign_in("admin", self.first_password)
        self.key("key of a command", self.command("createkey", "alice", "--name", "laptop"))
        link = self.link("link of a command", self.command("passwordlink", "alice"))
        self.set_password(self.stranger, link)
        self.alice.fail_to_sign_in("alice")
        self.alice.sign_in("alice", self.password)
        new = {"name": "page", "form_token": secrets.token_urlsafe(12)}
        self.shown_key("key of a page", self.alice, "/keys/new/", new)
        public_id = self.keys["key of a page"][3:11]
        rotated = {"grace": "24", "form_token": secrets.token_urlsafe(12)}
        self.shown_key("rotated key of a page", self.alice, f"/keys/{public_id}/rotate/", rotated)
        token = self.alice.http.cookies["csrftoken"]
        asked = self.alice.http.post("/playground/key/", headers={"X-CSRFToken": token})
        self.key("key of the playground", asked.json()["key"])
        self.staff()
        if not self.is_quick:
            self.further_commands(public_id)

    def further_commands(self, public_id: str) -> None:
        self.link("invitation of a command", self.command("invite"))
        other = self.command("rotatekey", self.keys["key of a command"][3:11])
        self.key("rotated key of a command", other)
        for arguments in (("keys", "alice"), ("revokekey", public_id)):
            self.search.look(f"stdout of {arguments[0]}", self.command(*arguments), logs=True)

    def staff(self) -> None:
        """By the admin: keys, a link for a password, invitations."""
        (user,) = self.rows("SELECT id FROM accounts_user WHERE username = 'alice'")
        empty = {"name": "admin", "allowed_models": "", "token_budget_period": "month"}
        self.shown_key(
            "key of the admin", self.boss, "/admin/accounts/apikey/add/", {**empty, "user": user}
        )
        public_id = self.keys["key of the admin"][3:11]
        (key,) = self.rows(f"SELECT id FROM accounts_apikey WHERE public_id = '{public_id}'")
        chosen = {"action": "rotate", "_selected_action": key, "grace": "24", "apply": "1"}
        self.shown_key("rotated key of the admin", self.boss, "/admin/accounts/apikey/", chosen)
        action = {"action": "password_links", "_selected_action": user}
        answer = self.boss.post("/admin/accounts/user/", action, shows=True)
        self.link("link of the admin", unescape(answer.text))
        for name, used in (("used invitation", True), ("unused invitation", False)):
            form = {"note": "a friend", "days": "7"}
            answer = self.boss.post("/admin/accounts/invitation/add/", form, shows=True)
            path = self.link(name, unescape(answer.text))
            if used:
                self.sign_up(path)

    def set_password(self, visitor: Visitor, path: str) -> None:
        """By a link: first without its form's token, then right, then once more."""
        self.password = self.search.plant("password of alice", password())
        form = {"new_password1": self.password, "new_password2": self.password}
        assert visitor.post(path, form, csrf=False).status_code == 403
        page = visitor.get(path)
        at = page.headers.get("location", path)
        assert visitor.post(at, form).status_code in (200, 302)
        visitor.get(path)
        short = {"new_password1": "x", "new_password2": self.search.plant("mistyped", password())}
        visitor.post(path, short)

    def sign_up(self, path: str) -> None:
        word = self.search.plant("password of who signed up", password())
        form = {"username": "carol", "password1": word, "password2": word}
        self.stranger.post(path, form, csrf=False)
        self.stranger.post(path, {**form, "password2": f"{word} "})
        self.stranger.post(path, form)
        self.stranger.get(path)

    def shown_key(self, name: str, visitor: Visitor, path: str, form: dict[str, Any]) -> None:
        answer = visitor.post(path, form, shows=True)
        found = {*KEY.findall(answer.text)}
        assert len(found) == 1, f"{name}: {answer.status_code}"
        self.key(name, found.pop())

    def key(self, name: str, text: str) -> None:
        assert KEY.fullmatch(text), name
        self.keys[name] = self.search.plant_key(name, text)

    def link(self, name: str, text: str) -> str:
        """The path of the link in it; its tokens are secrets."""
        found = LINK.search(text)
        assert found, name
        self.search.plant(name, found[1].strip("/").rpartition("/")[2])
        return found[1]

    def rows(self, sql: str) -> list[Any]:
        return [row[0] for row in History(self.server.var_dir, self.server.database_url).rows(sql)]

    # ---- programs -------------------------------------------------------------------------------

    def say(self, *besides: str) -> str:
        """Something that nobody but its author should read."""
        self.said += 1
        words = f"confided to the model {secrets.token_hex(8)}"
        self.search.plant(f"what was said, {self.said}", words, is_kept=True)
        return " ".join((words, *besides))

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """What comes back is searched; what was said may be quoted to whoever said it."""
        answer = httpx.request(method, self.server.url + path, timeout=60, **options)
        headers = [f"{name}: {value}" for name, value in answer.headers.items()]
        self.search.look(f"answer to {method} {path[:30]}", "\n".join([*headers, answer.text]))
        return answer

    def heard(self, answer: httpx.Response) -> None:
        """An answer is as confidential as a question."""
        if answer.status_code == 200:
            choice = answer.json()["choices"][0]
            text = choice["message"]["content"] if "message" in choice else choice["text"]
            if len(text.strip()) > 20:
                self.search.plant(f"answer {self.said}", text.strip(), is_kept=True)

    def requests(self) -> None:
        """With good keys, and what is refused of them."""
        for key in [*self.keys.values()][: self.most_keys]:
            self.heard(self.ask("POST", CHAT, json=chat(12, self.say()), headers=bearer(key)))
        good = bearer(self.keys["first key"])
        self.heard(
            self.ask(
                "POST", COMPLETIONS, json={"prompt": self.say(), "max_tokens": 30}, headers=good
            )
        )
        self.ask("POST", EMBEDDINGS, json={"input": self.say()}, headers=good)
        with streaming(self.server.url, self.keys["first key"], chat(20, self.say())) as stream:
            stream.read()
        for body in (
            {"messages": self.say()},
            {"messages": [{"role": "user", "content": self.say()}], "temperature": 9},
            {"messages": [{"role": self.say(), "content": "x"}]},
            {"messages": [{"role": "user", "content": self.say(BREAKS)}]},
            {"messages": [{"role": "user", "content": self.say("x" * 100_000)}]},
            {"model": self.say(), "messages": []},
            {self.say(): 1},
        ):
            self.ask("POST", CHAT, json=body, headers=good)
        for content in (f'{{"messages": "{self.say()}', b"\xff" + self.say().encode(), b""):
            headers = {**good, "Content-Type": "application/json"}
            assert self.ask("POST", CHAT, content=content, headers=headers).status_code == 400
        self.ask("POST", CHAT, content=self.say(), headers=good)
        self.ask("GET", f"/v1/conversations?metadata={self.say()}", headers=good)
        self.ask("DELETE", CHAT, headers=good)

    def misplaced_keys(self) -> None:
        """Keys in every place but the right one, and wrong ones in the right place."""
        for name, key in [*self.keys.items()][: self.most_keys]:
            self.ask("GET", f"/v1/models?api_key={key}")
            self.ask("POST", f"{CHAT}?key={key}", json=chat(1))
            self.ask("GET", f"/v1/models/{key}", headers=bearer(self.keys["first key"]))
            self.ask("GET", f"/{key}/v1/models")
            self.ask("GET", "/v1/models", headers={"Authorization": f"Basic {key}"})
            self.ask("GET", "/v1/models", headers={"Authorization": key})
            self.ask("GET", "/v1/models", headers={"api-key": key, "x-request-id": key})
            self.ask("GET", "/v1/models", headers=bearer(f"{key[:-1]}!"))
            self.ask("GET", "/v1/models", headers=bearer(f"{key} {key}"))
            for body in (
                {"messages": [], "api_key": key},
                {"messages": [], key: 1},
                {"messages": [{"role": "user", "content": "x"}], "model": key},
                {"messages": [{"role": key, "content": "x"}]},
                {"messages": [{"role": "user", "content": "x"}], "conversation": key},
            ):
                self.ask("POST", CHAT, json=body, headers=bearer(self.keys["first key"]))
            self.ask("POST", CHAT, content=f'{{"key": "{key}", ', headers=bearer(key))
            visited = self.stranger.http.get(f"/nothing/{key}")
            self.search.look(f"page that is not there, with {name}", visited.text)
        unknown = self.search.plant_key("unknown key", well_formed())
        assert self.ask("GET", "/v1/models", headers=bearer(unknown)).status_code == 401
        session = self.alice.http.cookies["sessionid"]
        cookies = {"Cookie": f"sessionid={session}"}
        assert self.ask("GET", "/v1/models", headers=cookies).status_code == 401
        self.ask("GET", f"/v1/models?sessionid={session}")
        self.ask("GET", "/metrics", headers=bearer(self.keys["first key"]))
        self.ask(
            "GET", "/metrics", headers=bearer(f"{self.server.environment['LLMAPI_METRICS_TOKEN']}x")
        )

    # ---- faults ---------------------------------------------------------------------------------

    def refusals_of_the_database(self) -> None:
        good = bearer(self.keys["first key"])
        refuse(self.server)
        try:
            refused = self.ask("POST", CHAT, json=chat(5, self.say(REFUSED_ROW)), headers=good)
            assert refused.status_code == 503
            self.ask(
                "POST",
                CHAT,
                json={**chat(5, self.say()), "metadata": {"note": REFUSED_END}},
                headers=good,
            )
        finally:
            allow(self.server)
        # An end that was refused is in the journal, or was set aside from it.
        until(lambda: self.server.ready_status() == 200, "the database has all ends", 60)

    def death_of_the_engine(self) -> None:
        with self.stream() as stream:
            os.kill(self.server.engine_pid or 0, signal.SIGKILL)
            stream.read()
        until(lambda: self.server.ready_status() == 200, "the engine is back", 120)

    def death_of_all(self) -> None:
        with self.stream():
            self.server.kill()

    def end(self) -> None:
        """SIGTERM while something is under way that outlasts it."""
        with self.stream():
            self.server.stop()

    @contextlib.contextmanager
    def stream(self) -> Iterator[Any]:
        body = chat(800, self.say("and so on " * 30))
        with streaming(self.server.url, self.keys["first key"], body) as stream:
            with contextlib.suppress(httpx.HTTPError):  # the server was killed
                yield stream
            if len(stream.text) > 20:
                self.search.plant(f"answer {self.said}", stream.text[:40], is_kept=True)

    def bad_starts(self) -> None:
        """Settings that stop a start: the sentence names the variable, and shows no value."""
        before = dict(self.server.variables), self.server.database_url
        secret = self.search.plant("secret of a bad setting", secrets.token_hex(12))
        for changed in (
            {"DATABASE_URL": f"mysql://llmapi:{secret}@127.0.0.1/llmapi"},
            {"DATABASE_URL": f"postgres://llmapi:{secret}@127.0.0.1:1/llmapi"},
            {"REDIS_URL": f"http://:{secret}@127.0.0.1:6379/0"},
            {"SECRET_KEY": secret},
            {"LLMAPI_METRICS_TOKEN": f"{secret} with a space"},
            {"LLMAPI_METRICS_TOKEN": secret[:15], "LLMAPI_PORT": "0"},
        ):
            self.search.plant("another such secret", secret[:15])
            self.server.variables = before[0] | changed
            assert self.server.run() != 0, [*changed]
        self.server.variables, self.server.database_url = before

    # ---- the search -----------------------------------------------------------------------------

    def look_everywhere(self, secret_key: str) -> None:
        """In all that is left, while the server is up."""
        for visitor in (self.boss, self.alice):
            starts = ("/", "/admin/", "/docs/", "/openapi.json")
            assert visitor.crawl(*starts, most=self.most_pages) > 10
        self.search.look("/metrics", self.server.metrics(), logs=True)
        if self.server.database_url is None:
            self.search.look_in_sqlite(self.server.var_dir / "db.sqlite3", secret_key)
        else:
            self.search.look_in_postgres(self.server.database_url, secret_key)
        # The models are no place for secrets, and large.
        self.search.look_in_files(self.server.var_dir, but=("db.sqlite3", "models/"))
        for path in sorted(self.server.logs.iterdir()):
            besides = self.shown_at_start if path.name == "1.out" else ()
            self.search.look(f"log {path.name}", path.read_bytes(), logs=True, besides=besides)
        for pid in filter(None, (self.server.pid, self.server.engine_pid)):
            self.search.look("command line", Path(f"/proc/{pid}/cmdline").read_bytes(), logs=True)


def well_formed() -> str:
    """A key that nobody made, with the right checksum."""
    from accounts.keys import new_key

    return new_key().text


def as_lines(log: str) -> list[dict[str, Any]]:
    """Of a log that was written with LLMAPI_LOG_FORMAT=json."""
    return [json.loads(line) for line in log.splitlines()]
