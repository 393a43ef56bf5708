"""A page of tables and bars from the newest JSON of a suite.

python -m bench.kernels.page --results bench/results --out bench/kernels.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

SUITE = "kernels-h200"
MISSING = (
    "No GPU has run this suite yet: there is no figure of these kernels' speed in this repository. The command that "
    "makes them is in [README.md](README.md)."
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels.page", description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--out", type=Path, required=True, help="the page; its picture is written beside it")
    parser.add_argument("--suite", default=SUITE)
    chosen = parser.parse_args(arguments)
    files = sorted(chosen.results.glob(f"{chosen.suite}-*.json"), key=lambda file: file.stem[-10:])
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    if not files:
        chosen.out.write_text(f"# Kernels, measured\n\n{MISSING}\n", encoding="utf-8")
        return
    result = json.loads(files[-1].read_text(encoding="utf-8"))
    picture = chosen.out.with_suffix(".png")
    draw(result["rows"], picture)
    chosen.out.write_text("\n".join(page(result, picture.name)) + "\n", encoding="utf-8")


def page(result: dict[str, Any], picture: str) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    yield "# Kernels, measured"
    yield ""
    yield f"{result['machine']}, {result['date']}; {versions}; commit {result['commit']}."
    yield f"Made by `{result['command']}`. Times are medians of calls in turn, with the caches emptied before each."
    yield ""
    yield f"![share of the floor]({picture})"
    for case, rows in groupby(result["rows"], key=lambda row: row["case"]):
        yield from [
            "",
            f"## {case}",
            "",
            "| provider | what | value | floor or target | share |",
            "|---|---|---|---|---|",
        ]
        for row in rows:
            value = f"{shown(row['value'])} {row['unit']}"
            cells = (row["provider"], row["metric"], value, shown(row.get("limit")), share(row))
            yield f"| {' | '.join(cells)} |"


def share(row: dict[str, Any]) -> str:
    """Of a floor in ms, or of a target."""
    limit = row.get("limit")
    if not limit:
        return ""
    return f"{100 * limit / row['value'] if row['unit'] == 'ms' else 100 * row['value'] / limit:.0f}%"


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def draw(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Each provider's share of the floor, case by case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [row for row in rows if row["unit"] == "ms" and row.get("limit")]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.24 * max(len(bars), 1)), layout="constrained")
    labels = [f"{row['case']}  {row['provider']}, {row['metric'].partition(',')[0]}" for row in bars]
    shares = [100 * row["limit"] / row["value"] for row in bars]
    colours = ["#1b6ca8" if row["provider"].startswith("fastsvs") else "#b8b8b8" for row in bars]
    axes.barh(range(len(bars)), shares, color=colours)
    axes.set_yticks(range(len(bars)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.axvline(100, color="black", linewidth=0.8)
    axes.set_xlabel("share of the physical floor, %")
    figure.savefig(file, dpi=130)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
