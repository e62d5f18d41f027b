"""The results of a comparison: its JSON, and the tables made of it."""

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.figures import markdown, median

Results = dict[str, Any]
"""Machine, rates, limits, load, servers, skipped, rows; side_by_side.py makes it."""


def save(results: Results, path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Results:
    results: Results = json.loads(path.read_text(encoding="utf-8"))
    return results


def medians(results: Results, column: str) -> dict[str, dict[int, float]]:
    """Server -> clients -> median over the rounds."""
    values: dict[str, dict[int, list[float]]] = {}
    for row in results["rows"]:
        values.setdefault(row["server"], {}).setdefault(row["clients"], []).append(row[column])
    return {
        server: {clients: median(found) for clients, found in by_clients.items()}
        for server, by_clients in values.items()
    }


def tables(results: Results) -> str:
    speeds = medians(results, "tokens_per_s")
    counts = sorted({clients for by_clients in speeds.values() for clients in by_clients})
    if not counts:
        return "nothing was measured"
    return "\n\n".join(
        [
            machine_text(results),
            "Output tokens/s by number of clients:",
            speed_table(results, speeds, counts),
            ratio_table(speeds, counts),
            "Milliseconds, and how tokens were counted:",
            latency_table(results),
        ]
    )


def machine_text(results: Results) -> str:
    machine, rates = results["machine"], results["rates"]
    int8 = rates["int8_op_per_s"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    others = ", ".join(f"{name}: {said}" for name, said in results["servers"].items() if said)
    lines = [
        f"{machine['date'][:10]}, {machine['cores']} cores of {machine['cpu']} "
        f"({machine['instructions']}), {machine['memory_gib']} GiB; Python {machine['python']}, "
        f"{packages}; commit {machine['commit']}.",
        f"Reads {rates['bytes_per_s'] / 1e9:.1f} GB/s; products "
        f"{rates['fp32_flop_per_s'] / 1e9:.0f} GFLOP/s in fp32, "
        f"{'no' if int8 is None else f'{int8 / 1e9:.3g}'} Gop/s in int8.",
    ]
    if others:
        lines.append(f"Peers: {others}.")
    for name, reason in results["skipped"].items():
        lines.append(f"Skipped: {name}: {reason.removesuffix('.')}.")
    return "\n".join(lines)


def speed_table(results: Results, speeds: dict[str, dict[int, float]], counts: list[int]) -> str:
    rows: list[list[Any]] = [
        [name, *(by_clients.get(clients, math.nan) for clients in counts)]
        for name, by_clients in speeds.items()
    ]
    for precision in dict.fromkeys(entry["precision"] for entry in results["limits"]):
        by_batch = {
            entry["batch"]: entry["served"]
            for entry in results["limits"]
            if entry["precision"] == precision
        }
        row = [by_batch.get(clients, math.nan) for clients in counts]
        rows.append([f"(the machine's limit, {precision})", *row])
    return markdown(["server", *counts_head(counts)], rows)


def ratio_table(speeds: dict[str, dict[int, float]], counts: list[int]) -> str:
    """Each of ours over each other."""
    ours = [name for name in speeds if name.startswith("ours")]
    rows = [
        [f"{mine} / {other}", *(ratio(speeds, mine, other, clients) for clients in counts)]
        for mine in ours
        for other in speeds
        if other != mine
    ]
    return markdown(["ratio", *counts_head(counts)], rows) if rows else "(nothing to compare)"


def ratio(speeds: dict[str, dict[int, float]], mine: str, other: str, clients: int) -> float:
    return speeds[mine].get(clients, math.nan) / speeds[other].get(clients, math.nan)


def counts_head(counts: list[int]) -> list[str]:
    return [f"{clients} client{'s' if clients > 1 else ''}" for clients in counts]


def latency_table(results: Results) -> str:
    columns = [f"{name}_p{p}_ms" for name in ("first", "gap") for p in (50, 95, 99)]
    found = {column: medians(results, column) for column in columns}
    rows = []
    for server, by_clients in found[columns[0]].items():
        for clients in by_clients:
            same = [
                row
                for row in results["rows"]
                if row["server"] == server and row["clients"] == clients
            ]
            rows.append(
                [server, clients]
                + [found[column][server][clients] for column in columns]
                + honesty(same)
            )
    head = ["server", "clients"]
    head += [f"{name} p{p}" for name in ("first token", "between") for p in (50, 95, 99)]
    return markdown([*head, "counted by", "text/count", "prompt", "short"], rows)


def honesty(rows: list[dict[str, Any]]) -> list[Any]:
    """What tells whether two servers did the same work."""
    prompts = [row["prompt_tokens"] for row in rows if row["prompt_tokens"]]
    least, most = min((p[0] for p in prompts), default=0), max((p[1] for p in prompts), default=0)
    return [
        rows[0]["counted_by"],
        median(row["text_share"] or math.nan for row in rows),
        str(least) if least == most else f"{least} to {most}",
        sum(row["short_answers"] for row in rows),
    ]
