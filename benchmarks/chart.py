"""The chart of a comparison: tokens/s by number of clients and server.

python -m benchmarks.chart var/benchmarks.json docs/images/benchmarks.png
"""

import argparse
import itertools
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display is needed
from matplotlib import pyplot

from benchmarks.results import Results, medians, read

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart. Ours are
# the two strong ones; the hatches tell the rest apart in print, too.
OURS = (("#0072B2", ""), ("#56B4E9", ""))
OTHERS = (("#E69F00", "//"), ("#009E73", "\\\\"), ("#CC79A7", "xx"), ("#999999", ".."))


def draw(results: Results, path: Path) -> None:
    speeds = medians(results, "tokens_per_s")
    counts = sorted({clients for by_clients in speeds.values() for clients in by_clients})
    figure, axes = pyplot.subplots(figsize=(10, 5.5), layout="constrained")
    width = 0.84 / len(speeds)
    ours, others = itertools.cycle(OURS), itertools.cycle(OTHERS)
    for place, (server, by_clients) in enumerate(speeds.items()):
        color, hatch = next(ours if server.startswith("ours") else others)
        places = [n for n, clients in enumerate(counts) if clients in by_clients]
        heights = [by_clients[counts[n]] for n in places]
        offset = (place - (len(speeds) - 1) / 2) * width
        bars = axes.bar(
            [n + offset for n in places],
            heights,
            width * 0.94,
            label=server,
            color=color,
            hatch=hatch,
            edgecolor="white",
        )
        axes.bar_label(bars, [f"{height:.0f}" for height in heights], padding=2, fontsize=8)
    machine = results["machine"]
    axes.set_xticks(range(len(counts)), [str(clients) for clients in counts])
    axes.set_xlabel("clients at once, each with one streaming chat")
    axes.set_ylabel("output tokens per second, all clients together")
    axes.set_title(
        f"{results['model']}: 111-token prompts, {results['load']['max_tokens']} new tokens, "
        f"greedy\n{machine['cores']} cores of {machine['cpu']} ({machine['instructions']}), "
        f"{machine['date'][:10]}; medians of {results['load']['rounds']} rounds",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.grid(visible=True, color="#dddddd")
    axes.set_axisbelow(True)
    axes.margins(y=0.08)
    axes.legend(loc="upper left", framealpha=1, edgecolor="white")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a comparison.")
    parser.add_argument("results", type=Path, metavar="JSON")
    parser.add_argument("image", type=Path, metavar="PNG")
    given = parser.parse_args()
    draw(read(given.results), given.image)


if __name__ == "__main__":
    main()
