"""Write a page of tables, bars and rooflines from the newest JSON of a suite.

python -m bench.kernels.page --results bench/results --out bench/kernels.md
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.kernels import roofline
from bench.kernels.peers import PEERS
from bench.kernels.providers import complete_providers
from bench.kernels.suites import BOTH, BYTES, flop_of
from bench.kernels.targets import OURS

SUITE, SIMULATED = "kernels-h200", "kernels-simulated"
MISSING = (
    "No GPU has run this suite yet: there is no figure of these kernels' speed in this repository. The command that "
    "makes them is in [README.md](README.md)."
)
ABSENT = "measured"
"""Metric of a provider that has no figures; its note says why."""
CUT, BOX = "// cut", {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
OUR_COLOUR, PEER_COLOUR, HATCH = "#1b6ca8", "#b8b8b8", "////"
SHOWN = 2.5
"""Longest bar, in multiples of the floor: longer bars are cut, and marked."""
LOCKED = Path(__file__).parents[2] / "requirements" / "cuda.txt"
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels.page", description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--out", type=Path, required=True, help="the page; its pictures are written beside it")
    parser.add_argument("--suite", default=SUITE)
    chosen = parser.parse_args(arguments)
    result, without_gpu = (newest(chosen.results, suite) for suite in (chosen.suite, SIMULATED))
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    if result is None:
        chosen.out.write_text(f"# Kernels, measured\n\n{MISSING}\n", encoding="utf-8")
        return
    bars, rates = (chosen.out.with_name(f"{chosen.out.stem}{ending}.png") for ending in ("", "-roofline"))
    draw(result["rows"], bars)
    roofline.draw(result["rows"], rates)
    lines = [*page(result, bars.name, rates.name), *(simulated(without_gpu) if without_gpu else [])]
    chosen.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def newest(folder: Path, suite: str) -> dict[str, Any] | None:
    """Return what the newest file of this suite holds, or None where there is none."""
    files = sorted(folder.glob(f"{suite}-*.json"), key=lambda file: file.stem[-10:])
    return json.loads(files[-1].read_text(encoding="utf-8")) if files else None


def simulated(result: dict[str, Any]) -> Iterator[str]:
    yield from ["", "## Simulated", ""]
    yield f"Without a GPU: {result['machine']}, {result['date']}, by `{result['command']}`. How many tokens"
    yield "`exact=False` leaves out, drawn with the entropies that are published of Qwen3-8B's reasoning (half of them"
    yield "below 0.01 nats, a fifth above 0.672), and the errors to float64 of the forms that are not exact. No times:"
    yield "those need a GPU."
    for case, of_case in groupby(result["rows"], key=lambda row: row["case"]):
        yield from ["", f"### {case.partition('/')[2].capitalize()}", ""]
        yield from errors(list(of_case))


def page(result: dict[str, Any], bars: str, rates: str) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    yield "# Kernels, measured"
    yield ""
    yield f"{result['machine']}, {result['date']}; {versions}; commit {result['commit'] or 'unknown'}."
    yield f"Made by `{result['command']}`. The locked set of this repository has {pinned()}."
    yield f"Peers, where they could be imported: {', '.join(PEERS)}. Liger's scaled CE is that version's kernel for one"
    yield "GPU; its kernels for tensor parallelism were not measured."
    yield ""
    yield "Times are medians, with the 20th and 80th percentile, of calls in turn with the caches emptied before each."
    yield "The floor is what the products or the bytes of the work take at the rates measured in the same process:"
    yield f"{flop_of(products_of_logprobs(result['rows']))}; {BYTES}."
    yield "Peak memory is what a forward and backward pass takes beyond its inputs, results and gradients included."
    yield f"Like for like with a peer's is that of `{OURS}, dX and dW`, which makes both gradients as peers do; the"
    yield "other rows of ours add dW to a buffer that is there already, and do not count it."
    yield "A shape with TP is one rank's share of the vocabulary on one GPU: its rows leave out the all-gather."
    yield ""
    yield f"![rates of ours and of peers under what cuBLAS and a copy reach]({rates})"
    yield ""
    yield f"![milliseconds and peak memory of ours and of peers]({bars})"
    rows = sorted(result["rows"], key=lambda row: not row["case"].startswith("targets"))
    for case, of_case in groupby(rows, key=lambda row: row["case"]):
        yield from ["", f"## {case[0].upper()}{case[1:]}", ""]
        yield from section(case, list(of_case))


def products_of_logprobs(rows: Sequence[Row]) -> int:
    """Return how many products the file's floors count for log-probs forward and backward."""
    for case, of_case in groupby(rows, key=lambda row: row["case"]):
        floors = {row["metric"]: row["limit"] for row in of_case if row.get("limit")}
        if case.startswith("linear_logprob_entropy") and {"forward, median", "both, median"} <= set(floors):
            return round(floors["both, median"] / floors["forward, median"])
    return BOTH


def pinned() -> str:
    """Return the torch and the Triton of the locked set for GPUs."""
    text = LOCKED.read_text(encoding="utf-8")
    return " and ".join(
        f"{name} {version}"
        for name in ("torch", "triton")
        for version in re.findall(rf"^{name}==(\S+)", text, re.MULTILINE)
    )


def section(case: str, rows: Sequence[Row]) -> Iterator[str]:
    if case == "targets":
        yield from targets(rows)
    elif ", median" in " ".join(row["metric"] for row in rows):
        yield from times(rows)
    elif "/error, " in case:
        yield from errors(rows)
    else:
        yield from facts(rows)


def targets(rows: Sequence[Row]) -> Iterator[str]:
    yield from heading("what", "whose", "measured", "target", "")
    for row in rows:
        verdict = "PASS" if row["value"] >= row["limit"] else "BELOW"
        yield line(row["metric"], row["provider"], f"{shown(row['value'])} {row['unit']}", shown(row["limit"]), verdict)


def times(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each provider and mode, then who is absent and why."""
    yield from heading("provider", "mode", "ms", "of the floor", "peak GiB", "results GiB", "same bits", "not equal")
    found = {(row["provider"], row["metric"]): row for row in rows}

    def value(provider: str, metric: str) -> float | None:
        return found.get((provider, metric), {}).get("value")

    for row in rows:
        mode, _, kind = row["metric"].partition(", ")
        if kind != "median":
            continue
        name = row["provider"]
        low, high = value(name, f"{mode}, p20"), value(name, f"{mode}, p80")
        span = f" [{shown(low)}, {shown(high)}]" if low is not None else ""
        memory = (shown(value(name, metric)) for metric in ("peak memory", "results and gradients"))
        same = {None: "", 0.0: "no", 1.0: "yes"}[value(name, "same bits twice")]
        yield line(name, mode, f"{shown(row['value'])}{span}", share(row), *memory, same, row.get("note", ""))
    for row in rows:
        if row["metric"] == ABSENT:
            yield f"\n{row['provider']}: {row['note']}."


def errors(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each provider, with a column for each figure."""
    units = {row["metric"]: row["unit"] for row in rows}
    yield from heading("provider", *(f"{metric} ({unit})" for metric, unit in units.items()))
    for provider, of_provider in groupby(rows, key=lambda row: row["provider"]):
        found = {row["metric"]: row["value"] for row in of_provider}
        yield line(provider, *(shown(found.get(metric)) for metric in units))


def facts(rows: Sequence[Row]) -> Iterator[str]:
    yield from heading("whose", "what", "value", "of the floor")
    for row in rows:
        if row["metric"] == ABSENT:
            yield line(row["provider"], row["note"], "", "")
        else:
            yield line(row["provider"], row["metric"], f"{shown(row['value'])} {row['unit']}", share(row))


def heading(*columns: str) -> Iterator[str]:
    yield line(*columns)
    yield f"|{'---|' * len(columns)}"


def line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def share(row: Row) -> str:
    """Return the share of the floor in the row's time, in percent, or an empty text where there is no floor."""
    return f"{100 * row['limit'] / row['value']:.0f}%" if row.get("limit") else ""


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def draw(rows: Sequence[Row], file: Path) -> None:
    """Draw the cases that have peers, one above the other."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    bars: dict[str, list[Row]] = {}
    for row in rows:
        if row["metric"] == "both, median" and row.get("limit"):
            bars.setdefault(row["case"], []).append(row)
    bars = {case: of_case for case, of_case in bars.items() if not all(map(is_ours, of_case))} or bars
    memory = {(row["case"], row["provider"]): row["value"] for row in rows if row["metric"] == "peak memory"}
    heights = [1.2 + 0.24 * len(of_case) for of_case in bars.values()] or [1.0]
    figure, all_axes = pyplot.subplots(
        len(heights), figsize=(9, sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for axes, (case, of_case) in zip(all_axes[:, 0], bars.items(), strict=False):
        draw_bars(axes, sorted(of_case, key=lambda row: row["value"]), memory)
        axes.set_title(f"{case}: time and peak memory; dashed: the floor", fontsize=8)
    kinds = [Patch(facecolor=OUR_COLOUR, label=OURS), Patch(facecolor=PEER_COLOUR, label="a peer, the same work")]
    kinds += [Patch(facecolor="white", edgecolor=PEER_COLOUR, hatch=HATCH, label="a peer, less or other work")]
    figure.legend(handles=kinds, loc="outside lower center", ncols=3, fontsize=7)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)


def draw_bars(axes: Any, rows: Sequence[Row], memory: Mapping[tuple[str, str], float]) -> None:
    """Draw the milliseconds of each provider of a case, with its GiB, beside the floor of the first."""
    case, floor = rows[0]["case"], rows[0]["limit"]
    complete, widest = complete_providers(case.partition("/")[0]), SHOWN * floor
    for place, row in enumerate(rows):
        colour, whole = (OUR_COLOUR if is_ours(row) else PEER_COLOUR), is_ours(row) or row["provider"] in complete
        face, hatch = (colour, None) if whole else ("white", HATCH)
        axes.barh(place, min(row["value"], widest), color=face, edgecolor=colour, hatch=hatch)
        if row["value"] > widest:
            axes.text(widest * 0.985, place, CUT, va="center", ha="right", fontsize=8, bbox=BOX)
        space = memory.get((case, row["provider"]))
        label = f"{shown(row['value'])} ms" + (f", {space:.1f} GiB" if space is not None else "")
        axes.text(widest / 50, place, label, va="center", fontsize=7, bbox=BOX)
    axes.set_yticks(range(len(rows)), [row["provider"] for row in rows], fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, widest)
    axes.set_xlabel("milliseconds of a forward and backward pass", fontsize=7)
    axes.set_ylabel("provider", fontsize=7)
    axes.axvline(floor, color="black", linewidth=0.8, linestyle="--")


def is_ours(row: Row) -> bool:
    return row["provider"].startswith(OURS)


if __name__ == "__main__":
    main()
