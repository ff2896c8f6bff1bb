"""Is the new model compatible with the old gallery?  One table and one picture from the evaluator's results.

    python tools/verdict/verdict.py RESULTS --old OLD --new NEW --paragon INDEPENDENT --out FOLDER

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
        values |= {f"TPIR@{rate(x)}": y for x, y in zip(report["1:N"]["FPIR"], report["1:N"]["TPIR"], strict=True)}
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of the evaluator's .json files")
    for role, text in (("old", "old model"), ("new", "new model"), ("paragon", "independently trained new model")):
        parser.add_argument(f"--{role}", required=True, help=f"{text}: its name in the results")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of verdict.txt and verdict.png")
    args = parser.parse_args()

    rows = rows_of(load(args.results), args.old, args.new, args.paragon)
    metrics = [m for m in rows["old / old"] if all(m in figures for figures in rows.values())]
    passed = [m for m in metrics if holds(rows, m)]
    failed = [m for m in metrics if m not in passed]
    verdict = f"{args.new} on the gallery of {args.old}: better than {args.old} in {len(passed)} of {len(metrics)} figures"
    text = table(rows, metrics) + "\n" + verdict + (f" (not in {', '.join(failed)})" if failed else "") + "\n"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "verdict.txt").write_text(text)
    picture(rows, metrics, verdict).savefig(args.out / "verdict.png", dpi=120)
    print(text + f"wrote {args.out / 'verdict.txt'} and {args.out / 'verdict.png'}")


if __name__ == "__main__":
    run(main)
