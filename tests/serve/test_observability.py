"""What is offered to operators for watching, against a server that runs: every metric and label
that the dashboard and the alerts name is there, and lines of the log are objects if that is set."""

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from llmapi.readings import metrics_described
from tests.serve.asking import CHAT, EMBEDDINGS, chat, post, streaming
from tests.serve.server import METRICS_TOKEN, PROJECT_DIR, ServerUnderTest, until

DASHBOARD = PROJECT_DIR / "deploy" / "grafana" / "llmapi.json"
ALERTS = PROJECT_DIR / "deploy" / "prometheus" / "alerts.yml"
SCRAPE = PROJECT_DIR / "deploy" / "prometheus" / "prometheus.yml"
BY_PROMETHEUS = {"job", "instance", "le"}
SUFFIXES = re.compile(r"_(bucket|sum|count)$")


@dataclass(frozen=True)
class Named:
    """A metric that some query names, and the labels by which it selects or groups."""

    metric: str
    labels: frozenset[str]
    query: str


def strings(value: Any, key: str) -> Iterator[str]:
    """All strings under that key, at any depth."""
    if isinstance(value, dict):
        if isinstance(value.get(key), str):
            yield value[key]
        for inner in value.values():
            yield from strings(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner, key)


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]


def queries() -> list[str]:
    variables = [
        query.removeprefix("label_values(").rpartition(",")[0]
        for query in strings(dashboard()["templating"], "definition")
    ]
    return [*strings(dashboard(), "expr"), *variables, *(rule["expr"] for rule in rules())]


def named_in(query: str) -> Iterator[Named]:
    text = query.replace("$__rate_interval", "5m").replace("$__range", "1h")
    groups: set[str] = set()
    selectors: list[Any] = []

    def visit(expression: Any) -> None:
        if isinstance(expression, promql_parser.VectorSelector):
            selectors.append(expression)
        elif isinstance(expression, promql_parser.MatrixSelector):
            selectors.append(expression.vector_selector)
        elif isinstance(expression, promql_parser.AggregateExpr) and expression.modifier:
            groups.update(expression.modifier.labels)

    promql_parser.walk(promql_parser.parse(text), visit)
    for selector in selectors:
        matched = {matcher.name for matcher in selector.matchers.matchers}
        yield Named(selector.name, frozenset(matched | groups), query)


@pytest.fixture(scope="module")
def known(server: ServerUnderTest, key: str) -> dict[str, set[str]]:
    """Metric -> labels, of a running server that has answered something."""
    post(server.url, key, CHAT, chat(5))
    post(server.url, key, EMBEDDINGS, {"input": "Hello"})
    post(server.url, key, CHAT, {"messages": []})
    labels = {metric.name: {*metric.labels} for metric in metrics_described()}
    found = {}
    for family in text_string_to_metric_families(server.metrics()):
        name = family.name + {"counter": "_total"}.get(family.type, "")
        shown = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert name in labels, "what a server shows and the table in docs/ does not describe"
        if not name.endswith("_info"):
            assert shown <= labels[name], name
        found[name] = labels[name]
    assert len(found) > 40
    return found


def test_every_metric_and_label_of_dashboard_and_alerts_is_there(known) -> None:
    names = [named for query in queries() for named in named_in(query)]
    assert len(names) > 70
    for named in names:
        if named.metric == "up":  # Prometheus' own
            continue
        metric = named.metric
        if metric not in known:
            metric = SUFFIXES.sub("", metric)
        assert metric in known, f"{named.metric} of {named.query}"
        unknown = named.labels - known[metric] - BY_PROMETHEUS
        assert not unknown, f"{unknown} of {named.query}"


def test_every_metric_of_ours_is_on_the_dashboard(known) -> None:
    shown = {
        named.metric if named.metric in known else SUFFIXES.sub("", named.metric)
        for query in queries()
        for named in named_in(query)
    }
    assert {name for name in known if name.startswith("llmapi_")} - shown == {"llmapi_draining"}


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    board = dashboard()
    assert board["title"]
    assert board["uid"]
    assert board["schemaVersion"] >= 39
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    panels = board["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len({*ids})
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another"
        assert at["x"] + at["w"] <= 24
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len({*references}) > 0
        for target in panel["targets"]:
            used = {*re.findall(r"\$(?!__)(\w+)", target["expr"])}
            assert used <= variables.keys(), target["expr"]


def test_alerts_say_what_happened_and_who_should_look() -> None:
    page = (PROJECT_DIR / "docs" / "observability.md").read_text()
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len({*names})
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert f"`{rule['alert']}`" in page, "what to do about it"


def test_prometheus_is_shown_how_to_ask() -> None:
    (job,) = yaml.safe_load(SCRAPE.read_text())["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["authorization"]["type"] == "Bearer"
    assert job["authorization"]["credentials_file"]


def test_what_is_refused_before_it_is_read_is_counted(server: ServerUnderTest) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    figures = server.metrics()
    assert re.search(r'llmapi_errors_total\{code="invalid_http",status="400"\} [1-9]', figures)
    assert re.search(r'llmapi_requests_total\{[^}]*route="unread",status="4xx"\} [1-9]', figures)
    assert re.search(r"llmapi_connections [1-9]", figures), "that of whoever asks"


def test_each_line_of_the_log_is_an_object_also_when_the_engine_dies(new_server) -> None:
    server = new_server(LLMAPI_LOG_FORMAT="json", LLMAPI_LOG_LEVEL="DEBUG")
    server.start()
    server.wait_ready()
    key = server.new_key()
    assert post(server.url, key, CHAT, chat(5)).status_code == 200
    assert post(server.url, "sk-wrong", CHAT, chat(5)).status_code == 401
    with streaming(server.url, key, chat(16000)) as stream:
        os.kill(server.engine_pid, signal.SIGKILL)
        stream.read()
    until(lambda: server.ready_status() == 200, "the engine is back", 60)
    assert "llmapi_engine_restarts_total{" in server.metrics()
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.err.splitlines()]
    for line in lines:
        assert {"time", "level", "logger", "message"} <= line.keys()
    ends = [line for line in lines if line["logger"] == "llmapi.finished"]
    assert [end["outcome"] for end in ends] == ["completed", "refused", "interrupted"]
    assert any("Starting it again" in line["message"] for line in lines)
    assert any(line["message"].startswith("Reading the tokenizer") for line in lines)
    assert METRICS_TOKEN not in server.err
