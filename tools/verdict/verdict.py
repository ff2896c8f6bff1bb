"""Is the new model compatible with the old gallery?  One table and one picture from the evaluator's results.

    python tools/verdict/verdict.py RESULTS --old OLD --new NEW [NEW ...] --paragon INDEPENDENT --out FOLDER

RESULTS: folder with the evaluator's .json files (--out of ijbc_eval.py), 1:1 and 1:N, of the old model alone, the
new one alone and on the old gallery, the paragon (an independently trained new model) alone and on the old gallery.
M(q, g) is a figure with queries embedded by q and the gallery by g:
    criterion     M(new, old) > M(old, old)
    update gain   [M(new, old) - M(old, old)] / [M(paragon, paragon) - M(old, old)]       (BCT, CVPR 2020, Eq. 9)
"""

import argparse
import json
import sys
from pathlib import Path

from matplotlib.figure import Figure
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from utils.errors import UserError, run

Figures = dict[str, float]


def rate(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-")


def figures_of(report: dict) -> Figures:
    """{name of a metric: value in %} of one result, figures that the data cannot tell left out."""
    if report["settings"]["protocol"] == "1:1":
        values = {f"TAR@{rate(x)}": y for x, y in zip(report["1:1"]["FAR"], report["1:1"]["TAR"], strict=True)}
    else:
        values = {f"top-{k}": v for k, v in report["1:N"]["top"].items()}
        values |= {f"TPIR@{rate(x)}": y for x, y in zip(report["1:N"]["FPIR"], report["1:N"]["TPIR"], strict=True)
                   if x < 1}                    # at FPIR 1 everything is let in: that is top-1
    return {name: 100 * value for name, value in values.items() if value is not None}


def load(folder: Path) -> dict[str, Figures]:
    """{model, or NEW_on_OLD: its figures of 1:1 and 1:N} of all results in the folder."""
    found: dict[str, Figures] = {}
    for file in sorted(folder.glob("*.json")):
        report = json.loads(file.read_text())
        if "settings" not in report:
            raise UserError(f"{file} is no result of tools/ijbc_eval; give a folder that holds only such results")
        found.setdefault(report["settings"]["name"], {}).update(figures_of(report))
    return found


def rows_of(found: dict[str, Figures], old: str, new: str, paragon: str) -> dict[str, Figures]:
    """The five cells of M that decide, as {"query / gallery": figures}."""
    names = {"old / old": old, "new / old": f"{new}_on_{old}", "new / new": new,
             "paragon / old": f"{paragon}_on_{old}", "paragon / paragon": paragon}
    for name in names.values():
        if name not in found:
            raise UserError(f"no result of {name} among {', '.join(found) or 'none'}; run tools/ijbc_eval for it first")
    return {cell: found[name] for cell, name in names.items()}


def gain(rows: dict[str, Figures], metric: str) -> float:
    """Update gain in %; NaN when the paragon is no better than the old model."""
    start, full = rows["old / old"][metric], rows["paragon / paragon"][metric]
    return 100 * (rows["new / old"][metric] - start) / (full - start) if full > start else float("nan")


def table(rows: dict[str, Figures], metrics: list[str]) -> str:
    out = PrettyTable(["query / gallery, in %", *metrics], align="r")
    out.align["query / gallery, in %"] = "l"
    for cell, figures in rows.items():
        out.add_row([cell, *(f"{figures[m]:.2f}" for m in metrics)], divider=cell == "paragon / paragon")
    out.add_row(["update gain", *(f"{gain(rows, m):.0f}" for m in metrics)])
    out.add_row(["new/old > old/old", *("yes" if holds(rows, m) else "no" for m in metrics)])
    return out.get_string()


def holds(rows: dict[str, Figures], metric: str) -> bool:
    return rows["new / old"][metric] > rows["old / old"][metric]


def picture(rows: dict[str, Figures], metrics: list[str], title: str) -> Figure:
    """Grouped bars: one group per metric, one bar per cell."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots()
    colours = {"old / old": "0.6", "new / old": "tab:green", "new / new": "tab:blue", "paragon / old": "tab:red",
               "paragon / paragon": "tab:orange"}
    for i, (cell, figures) in enumerate(rows.items()):
        bars = axes.bar([m + 0.17 * (i - 2) for m in range(len(metrics))], [figures[m] for m in metrics], 0.16,
                        label=cell, color=colours[cell])
        axes.bar_label(bars, fmt="%.0f", fontsize=7)
    axes.set_xticks(range(len(metrics)), metrics)
    axes.set(ylabel="%", ylim=(0, 108), title=title)
    axes.legend(title="query / gallery", ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return figure


def summary(methods: dict[str, dict[str, Figures]], metrics: list[str]) -> str:
    """One row per method: alone, on the old gallery, update gain and criterion, for each metric."""
    first = next(iter(methods.values()))
    fields = ["in %", *(f"{metric} {what}" for metric in metrics for what in ("self", "cross", "gain", "holds"))]
    out = PrettyTable(fields, align="r")
    out.align["in %"] = "l"
    for model in ("old", "paragon"):
        own, on_old = first[f"{model} / {model}"], first[f"{model} / old"]
        out.add_row([model, *(cell for m in metrics for cell in (f"{own[m]:.2f}", f"{on_old[m]:.2f}", "", ""))],
                    divider=model == "paragon")
    for name, rows in methods.items():
        out.add_row([name, *(cell for m in metrics for cell in (
            f"{rows['new / new'][m]:.2f}", f"{rows['new / old'][m]:.2f}", f"{gain(rows, m):.0f}",
            "yes" if holds(rows, m) else "no"))])
    return out.get_string()


def scatter(methods: dict[str, dict[str, Figures]], metrics: list[str], title: str) -> Figure:
    """For each metric, every method: alone (x) and on the old gallery (y); above the line of old / old it is compatible."""
    figure = Figure(figsize=(5.5 * len(metrics), 5), layout="constrained")
    figure.suptitle(title)
    rows = next(iter(methods.values()))
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        axes.axhline(rows["old / old"][metric], color="0.5", label="old / old")
        axes.axvline(rows["paragon / paragon"][metric], color="tab:orange", linestyle="--", label="paragon / paragon")
        for number, (name, cells) in enumerate(methods.items()):
            axes.plot(cells["new / new"][metric], cells["new / old"][metric], "osD^v<>Px"[number % 9], label=name)
        axes.set(xlabel=f"{metric}, new / new, %", ylabel=f"{metric}, new / old, %")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def verdict_of(name: str, old: str, rows: dict[str, Figures], metrics: list[str]) -> str:
    passed = [m for m in metrics if holds(rows, m)]
    failed = [m for m in metrics if m not in passed]
    return (f"{name} on the gallery of {old}: better than {old} in {len(passed)} of {len(metrics)} figures"
            + (f" (not in {', '.join(failed)})" if failed and passed else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of the evaluator's .json files")
    parser.add_argument("--old", required=True, help="old model: its name in the results")
    parser.add_argument("--new", required=True, nargs="+", help="new models: their names; several give one row each")
    parser.add_argument("--paragon", required=True, help="independently trained new model: its name")
    parser.add_argument("--metrics", nargs="+", default=["TAR@1e-2", "top-1", "TPIR@1e-1"],
                        help="figures of the table of several new models")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of verdict.txt and verdict.png")
    args = parser.parse_args()

    found = load(args.results)
    methods = {name: rows_of(found, args.old, name, args.paragon) for name in args.new}
    metrics = [m for m in next(iter(methods.values()))["old / old"]
               if all(m in figures for rows in methods.values() for figures in rows.values())]
    verdicts = [verdict_of(name, args.old, rows, metrics) for name, rows in methods.items()]
    if len(methods) == 1:
        rows = methods[args.new[0]]
        text, figure = table(rows, metrics), picture(rows, metrics, verdicts[0])
    else:
        unknown = [m for m in args.metrics if m not in metrics]
        if unknown:
            raise UserError(f"--metrics {unknown[0]} is not among the figures that all results have: {' '.join(metrics)}")
        text, figure = summary(methods, args.metrics), scatter(methods, args.metrics, f"New models on the gallery of {args.old}")
    text = "\n".join([text, *verdicts]) + "\n"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "verdict.txt").write_text(text)
    figure.savefig(args.out / "verdict.png", dpi=120)
    print(text + f"wrote {args.out / 'verdict.txt'} and {args.out / 'verdict.png'}")


if __name__ == "__main__":
    run(main)
