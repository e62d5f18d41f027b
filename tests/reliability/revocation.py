"""Two server processes on one database: a key that is revoked through one is refused by the
other."""

import os
import re
import sys
import time
from pathlib import Path

import httpx

from tests.reliability.finding import Finding
from tests.reliability.servers import DATABASES, ECHO, DatabaseName, servers_on, started
from tests.serve.asking import CHAT, HELLO, bearer
from tests.serve.server import ServerUnderTest

TRIALS = int(os.environ.get("REVOCATION_TRIALS", "50"))
MOST_S = 1.0
LONGEST_S = 10.0
"""After which a key counts as never refused."""

FIRST_USER = re.compile(r"user (\S+)\s+password (\S+)")
KEY = re.compile(r'value="(sk-[0-9A-Za-z]+)"')
HIDDEN = re.compile(r'name="(csrfmiddlewaretoken|form_token)" value="([^"]*)"')


def measure(folder: Path) -> Finding:
    slowest = {}
    for database in DATABASES:
        slowest[database] = slowest_refusal(database, folder)
        print(f"{database}: {slowest[database] * 1000:.0f} ms", file=sys.stderr, flush=True)
    shown = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in slowest.items())
    return Finding(
        promise=f"a revoked key is refused by another server process ({TRIALS} keys each)",
        aim=f"within {MOST_S:g} s",
        seen=f"at the latest after: {shown}",
        holds=all(seconds <= MOST_S for seconds in slowest.values()),
    )


def slowest_refusal(database: DatabaseName, folder: Path) -> float:
    """Seconds from the page that says that a key is revoked to the other server's first 401."""
    with servers_on(database, folder) as servers:
        first = started(servers(**ECHO))
        second = started(servers.beside(first, **ECHO))
        with browser(first) as page, httpx.Client(base_url=second.url, timeout=10) as other:
            sign_in(page, first)
            return max(refused_after(page, other) for _ in range(TRIALS))


def browser(server: ServerUnderTest) -> httpx.Client:
    return httpx.Client(
        base_url=server.url, timeout=10, follow_redirects=True, headers={"Accept": "text/html"}
    )


def sign_in(page: httpx.Client, server: ServerUnderTest) -> None:
    """As the user of the first start."""
    found = FIRST_USER.search(server.out)
    assert found is not None, server.out
    submit(page, "/sign-in/", username=found[1], password=found[2])


def refused_after(page: httpx.Client, other: httpx.Client) -> float:
    made = KEY.search(submit(page, "/keys/new/", name="to be revoked", token_budget_period="month"))
    assert made is not None, "no key was shown"
    key = made[1]
    assert ask(other, key) == 200, "the other server knows the key"
    submit(page, f"/keys/{key.removeprefix('sk-')[:8]}/revoke/")
    revoked_at = time.monotonic()
    while ask(other, key) != 401:
        assert time.monotonic() - revoked_at < LONGEST_S, "the key is never refused"
    return time.monotonic() - revoked_at


def ask(client: httpx.Client, key: str) -> int:
    body = {"messages": HELLO, "max_tokens": 1}
    return client.post(CHAT, json=body, headers=bearer(key)).status_code


def submit(page: httpx.Client, path: str, **fields: str) -> str:
    """Fill in the form of a page; the page that comes of it."""
    hidden = dict(HIDDEN.findall(page.get(path).raise_for_status().text))
    return page.post(path, data={**hidden, **fields}).raise_for_status().text
