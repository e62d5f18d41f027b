"""Servers and results, without starting anything."""

import dataclasses
import sys
from pathlib import Path

import pytest

from benchmarks.load_client import Row
from benchmarks.machine import Limit, Rates, limit, limits
from benchmarks.model import Shape
from benchmarks.results import medians, tables
from benchmarks.servers import PER_START, Server, filled, read_servers, why_not_installed

SMOLLM2 = Shape(576, 1536, 30, 9, 3, 64, 49152)


def row(server: str, clients: int, round_number: int, speed: float) -> dict[str, object]:
    times = {f"{name}_p{p}_ms": 10.0 for name in ("first", "gap") for p in (50, 95, 99)}
    counted = Row(clients, 8, 1.0, 64, speed, "usage", 1.0, (111, 111), 0, 1.0, 0.01, **times)
    return {"server": server, "round": round_number, **dataclasses.asdict(counted)}


def results() -> dict[str, object]:
    rates = Rates(2, 20e9, 200e9, None)
    return {
        "machine": {
            "date": "2026-11-22T00:00:00",
            "cores": 2,
            "cpu": "a processor",
            "instructions": "AVX2",
            "memory_gib": 24,
            "python": "3.11",
            "packages": {"torch": "2"},
            "commit": "abc",
        },
        "rates": dataclasses.asdict(rates),
        "limits": [dataclasses.asdict(found) for found in limits(SMOLLM2, rates, [1, 4])],
        "servers": {"ours, fp32": None, "peer": "1.0"},
        "skipped": {"absent": "not set: BENCH_ABSENT"},
        "rows": [
            *(row("ours, fp32", 1, n, speed) for n, speed in enumerate((30.0, 10.0, 20.0))),
            row("ours, fp32", 4, 1, 50.0),
            row("peer", 1, 1, 10.0),
        ],
    }


def test_the_table_of_servers_is_complete_and_ours_come_first() -> None:
    servers = read_servers()
    assert [server.name for server in servers][:2] == ["ours, 8-bit", "ours, fp32"]
    assert len({server.name for server in servers}) == len(servers)
    for server in servers:
        words = [*server.command, *(server.key or []), *server.env.values()]
        assert any("{PORT}" in word for word in words)
        assert not any("/home" in word or "/tmp" in word for word in words)


def test_a_server_whose_setting_is_missing_is_skipped_with_the_variables_name() -> None:
    server = Server("x", "m", ["{PEER}/bin/x", "{PORT}", "{MODEL}", "{TMP}"])
    assert why_not_installed(server, {"MODEL": "m"}) == "not set: BENCH_PEER"
    assert "is not where" in (why_not_installed(server, {"MODEL": "m", "PEER": "/none"}) or "")
    python = Path(sys.executable)
    there = Server("x", "m", ["{PEER}/" + python.name])
    assert why_not_installed(there, {"PEER": str(python.parent)}) is None
    assert PER_START == ("PORT", "TMP")


def test_braces_that_are_no_setting_stay() -> None:
    assert filled('{"a": 1} {PORT}', {"PORT": "8"}) == '{"a": 1} 8'


def test_the_table_shows_medians_ratios_limits_and_what_was_skipped() -> None:
    found = results()
    assert medians(found, "tokens_per_s")["ours, fp32"] == {1: 20.0, 4: 50.0}
    text = tables(found)
    assert "| ours, fp32 / peer |     2.00 |         - |" in text
    assert "(the machine's limit, fp32)" in text
    assert "Skipped: absent: not set: BENCH_ABSENT." in text


def test_alone_the_limit_is_bandwidth_and_in_a_batch_it_is_products() -> None:
    assert SMOLLM2.layer_weights + SMOLLM2.head_weights == pytest.approx(134.5e6, rel=0.001)

    def of(batch: int) -> Limit:
        rates = {"bytes_per_s": 22e9, "op_per_s": 282e9, "bytes_per_weight": 4.0}
        return limit(SMOLLM2, "fp32", batch, **rates)

    assert of(1).decode == pytest.approx(40, abs=1)
    assert of(1024).decode == pytest.approx(282e9 / (2 * 134.5e6), rel=0.01)
    assert of(32).served < of(32).decode
