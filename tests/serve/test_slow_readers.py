"""Who reads its stream slowly, or never: what the server keeps for it is bounded, and the row says
what became of it."""

import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.serve.asking import CHAT, chat, post, request_bytes
from tests.serve.history import History
from tests.serve.server import ServerUnderTest, until

FAT = {"n": 8, "logprobs": True, "top_logprobs": 20, "stream": True}
"""Megabytes a second."""


@pytest.fixture(scope="module")
def impatient(module_servers) -> ServerUnderTest:
    server = module_servers(LLMAPI_STALLED_TIMEOUT_S="2")
    server.start()
    server.wait_ready()
    return server


def test_who_reads_nothing_is_cancelled_and_its_text_is_kept(impatient) -> None:
    key, history = impatient.new_key(), History(impatient.var_dir, impatient.database_url)
    address = urlsplit(impatient.url)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((address.hostname, address.port))
        body = json.dumps(chat(16_000, "Read me not", **FAT)).encode()
        sock.sendall(request_bytes(impatient.url, CHAT, key, body))

        def ended():
            rows = history.read().completions
            return next((row for row in rows if row.status not in ("running",)), None)

        row = until(ended, "the row ends", 90)
        assert post(impatient.url, key, CHAT, chat(1)).status_code == 200
    assert (row.status, row.error) == ("cancelled", "The client did not read its answer.")
    assert 0 < row.completion_tokens < 8 * 16_000
    assert len(row.texts) == 8
    assert all(row.texts)
