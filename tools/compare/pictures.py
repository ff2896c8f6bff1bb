"""The report as pictures, each a small PNG; the page puts them side by side if there is room."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.files import written_beside

SIZE = (6, 4.6)             # inches; the text stays readable on a phone
MARKERS = "osD^v<>PX*dp"    # matplotlib's, one per model


def draw_pictures(report: dict, out: Path) -> dict[str, Path]:
    """Write all pictures into the folder ``out``; {caption: file} in the order of the page."""
    made = {}
    for metric in report["headline"]:
        caption = f"{metric}: alone (right) and on the old gallery (up)"
        made[caption] = save(scatter(report, metric), out / f"scatter_{metric}.png")
    for metric in report["headline"][:1]:
        made[f"{metric} of every query model on every gallery"] = save(heat_map(report, metric), out / f"matrix_{metric}.png")
    if report["curves"].get(f"{report['old']} / {report['old']}"):
        for name in report["upgrades"]:
            caption = f"ROC of {name}, with 95 % bands" if report["draws"] else f"ROC of {name}"
            made[caption] = save(roc(report, name), out / f"roc_{name}.png")
    for metric in report["headline"][:2]:
        for name, upgrade in report["upgrades"].items():
            if "backfill" in upgrade:
                caption = f"{metric} while the gallery is re-embedded with {name}"
                made[caption] = save(backfill(report, name, metric), out / f"backfill_{name}_{metric}.png")
    for name, upgrade in report["upgrades"].items():
        if "backfill" in upgrade:
            caption = f"{report['headline'][0]} while {name} re-embeds {report['way']['images']:,} images"
            made[caption] = save(way(report, name, report["headline"][0]), out / f"way_{name}.png")
    return made


def save(figure: Figure, file: Path) -> Path:
    """Write the PNG and return ``file``."""
    with written_beside(file) as part:
        figure.savefig(part, format="png", dpi=110)
    return file


def plain(text: str) -> str:
    """``text`` without a meaning of $: matplotlib takes what is between two of them for a formula."""
    return text.replace("$", r"\$")


def start(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """A figure with empty axes."""
    title, xlabel, ylabel = map(plain, (title, xlabel, ylabel))
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=13)
    axes.set_xlabel(xlabel, fontsize=12)
    axes.set_ylabel(ylabel, fontsize=12)
    axes.grid(alpha=0.3)
    return figure, axes


def value(report: dict, query: str, gallery: str, metric: str) -> float:
    """The metric of queries of one version on the gallery of one version, in %."""
    return 100 * report["matrix"][query][gallery][metric]["value"]


def errors(report: dict, query: str, gallery: str, metric: str) -> list | None:
    """The interval as lengths below and above the value, for error bars, in %; None if there is no interval."""
    span = report["matrix"][query][gallery][metric]["interval"]
    middle = value(report, query, gallery, metric)
    return None if span is None else [[max(0, middle - 100 * span[0])], [max(0, 100 * span[1] - middle)]]


def scatter(report: dict, metric: str) -> Figure:
    """new / old against new / new: a model above the line old / old is better; one right of the paragon's lost nothing."""
    old, paragon = report["old"], report["paragon"]
    figure, axes = start(metric, "new / new, %", f"new / {old}, %")
    axes.axhline(value(report, old, old, metric), color="0.4", label=plain(f"{old} / {old}"))
    band = report["matrix"][old][old][metric]["interval"]
    if band:
        axes.axhspan(100 * band[0], 100 * band[1], color="0.5", alpha=0.12)
    if paragon:
        axes.axvline(value(report, paragon, paragon, metric), color="tab:orange", linestyle="--",
                     label=plain(f"{paragon} / {paragon}"))
    for number, (name, upgrade) in enumerate(report["upgrades"].items()):
        if name != paragon:
            mark = MARKERS[number % len(MARKERS)]
            bars = axes.errorbar(value(report, name, name, metric), value(report, name, old, metric),
                                 errors(report, name, old, metric), errors(report, name, name, metric), fmt=mark, elinewidth=0.6,
                                 alpha=0.9, markerfacecolor="none" if upgrade["free"] else None, label=plain(name))
            seeds = [100 * np.array(report["matrix"][name][gallery][metric]["each"], float) for gallery in (name, old)]
            if len(seeds[0]) > 1:
                axes.plot(*seeds, mark, color=bars.lines[0].get_color(), markersize=3, alpha=0.5)
    figure.legend(fontsize=9, ncols=3, loc="outside lower center")
    return figure


def heat_map(report: dict, metric: str) -> Figure:
    """The metric of every query model on every gallery."""
    names = list(report["matrix"])
    table = np.array([[report["matrix"][q][g][metric]["value"] if g in report["matrix"][q] else np.nan for g in names]
                      for q in names], float) * 100
    figure, axes = start(metric + ", %", "gallery", "query")
    axes.imshow(table, cmap="viridis", vmin=0, vmax=max(1.0, np.nanmax(table)))
    axes.grid(False)
    axes.set_xticks(range(len(names)), list(map(plain, names)), rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), list(map(plain, names)), fontsize=8)
    for (i, j), number in np.ndenumerate(table):
        if np.isfinite(number):
            axes.text(j, i, f"{number:.0f}", ha="center", va="center", fontsize=8,
                      color="white" if number < 0.6 * np.nanmax(table) else "black")
    return figure


def roc(report: dict, name: str) -> Figure:
    """ROC of the old system, of new queries on its gallery, and of everything re-embedded."""
    old, paragon = report["old"], report["paragon"]
    figure, axes = start(f"ROC of {name}", "false accept rate", "true accept rate")
    lines = {f"{old} / {old}": "0.4", f"{name} / {old}": "tab:green", f"{name} / {name}": "tab:blue"}
    if paragon and paragon != name:
        lines[f"{paragon} / {paragon}"] = "tab:orange"
    for label, colour in lines.items():
        curve = report["curves"][label]
        axes.plot(curve["far"], curve["tar"], color=colour, label=plain(label), linewidth=1.5)
        if "low" in curve:
            far = curve["far"][:len(curve["low"])]
            low, high = (np.array(curve[side], float) for side in ("low", "high"))      # None, for NaN in JSON, becomes NaN
            axes.fill_between(far, low, high, color=colour, alpha=0.15)
    axes.set(xscale="log", ylim=(0, 1.02))
    figure.legend(fontsize=9, ncols=2, loc="outside lower center")
    return figure


def backfill(report: dict, name: str, metric: str) -> Figure:
    """The metric while the gallery is re-embedded: a line per order, for random orders their mean and range."""
    old, paragon = report["old"], report["paragon"]
    figure, axes = start(f"{metric}, gallery re-embedded with {name}", "share of the gallery re-embedded, %", f"{metric}, %")
    axes.axhline(value(report, old, old, metric), color="0.4", linewidth=1, label=plain(f"{old} / {old}"))
    if paragon and paragon != name:
        axes.axhline(value(report, paragon, paragon, metric), color="tab:orange", linewidth=1, linestyle="--",
                     label=plain(f"{paragon} / {paragon}"))
    for order, curve in report["upgrades"][name]["backfill"].items():
        if metric not in curve["values"]:
            continue
        share, values = 100 * np.array(curve["share"]), 100 * np.array(curve["values"][metric], float)
        line, = axes.plot(share, values.mean(0), linewidth=1.5, label=order)
        if len(values) > 1:
            axes.fill_between(share, values.min(0), values.max(0), color=line.get_color(), alpha=0.15)
        if "mapped" in curve:
            axes.plot(share, mean(curve["mapped"], metric), "--", color=line.get_color(), linewidth=1.5)
    if any("mapped" in curve for curve in report["upgrades"][name]["backfill"].values()):
        axes.plot([], [], "--", color="0.4", label="mapped scores")
    figure.legend(fontsize=9, ncols=2, loc="outside lower center")
    return figure


def mean(curve: dict, metric: str) -> np.ndarray:
    """The mean of the curves of one order, in %."""
    return 100 * np.array(curve["values"][metric], float).mean(0)


def way(report: dict, name: str, metric: str) -> Figure:
    """The metric over the time that re-embedding takes, in the order with the best mean: share and time at the given rate."""
    images, rate = report["way"]["images"], report["way"]["rate"]
    unit, seconds = ("days", 86_400) if images > 2 * 86_400 * rate else ("hours", 3_600)
    total = images / rate / seconds
    order, curve = max(((order, curve) for order, curve in report["upgrades"][name]["backfill"].items() if metric in
                        curve["values"]), key=lambda item: item[1].get("mapped", item[1])[metric]["auc"])
    figure, axes = start(f"Re-embedding with {name}", f"{unit} for {images:,} images, {rate:g} images/s", f"{metric}, %")
    time = total * np.array(curve["share"])
    axes.plot(time, mean(curve, metric), color="tab:blue", label="raw scores")
    if "mapped" in curve:
        axes.plot(time, mean(curve["mapped"], metric), "--", color="tab:green", label="mapped scores")
    old = value(report, report["old"], report["old"], metric)
    axes.axhline(old, color="0.4", linewidth=1, label=plain(f"{report['old']} / {report['old']}"))
    share = axes.secondary_xaxis("top", functions=(lambda x: 100 * np.asarray(x) / total, lambda x: np.asarray(x) * total / 100))
    share.set_xlabel(f"share of the gallery re-embedded, %; order: {plain(order)}", fontsize=9)
    figure.legend(fontsize=9, ncols=3, loc="outside lower center")
    return figure
