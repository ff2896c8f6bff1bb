"""The report as pictures, each a PNG with more pixels than a page shows; the page puts them side by side if there is room."""

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image  # comes with matplotlib, which needs it

from evaluation.verification import FARS
from utils.files import written_beside

SIZE = (4.2, 3.5)           # inches without the legend; as wide as a phone's page, so that text keeps its size there
DPI = 230                   # sharp on a phone, and when a picture is enlarged
COLOURS = 128               # of a picture
TEXT = 10                   # points of all text
LINE = 0.21                 # inches that a line of the legend needs
CELL = 0.46                 # inches that a number of the matrix needs
LONGEST = 40                # letters of a name in a picture
MARKERS = "osD^v<>PX*dp"    # matplotlib's, one per model


def draw_pictures(report: dict, out: Path) -> dict[str, Path]:
    """Write all pictures into the folder ``out``; {caption: file} in the order of the page."""
    made = {}
    for metric in report["headline"]:
        caption = f"{metric} on the gallery of {report['old']} (upwards) and alone (to the right); better is above the grey line"
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
    """Write the PNG with COLOURS colours, a quarter of its bytes with all of them, and return ``file``."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    with written_beside(file) as part, Image.open(drawn) as picture:
        few = picture.convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        few.save(part, format="png", optimize=True)
    return file


def plain(text: str) -> str:
    """``text`` without a meaning of $: matplotlib takes what is between two of them for a formula."""
    return text.replace("$", r"\$")


def short(name: str) -> str:
    """A name as text of a picture, cut to LONGEST letters."""
    return plain(name if len(name) <= LONGEST else name[:LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}")


def start(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """A figure with empty axes."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_title(short(title), fontsize=TEXT + 1)
    axes.set_xlabel(short(xlabel), fontsize=TEXT)
    axes.set_ylabel(short(ylabel), fontsize=TEXT)
    axes.tick_params(labelsize=TEXT)
    axes.grid(alpha=0.3)
    return figure, axes


def add_legend(figure: Figure, axes: Axes) -> Figure:
    """The legend below the axes; the figure grows by its lines."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if max(map(len, labels)) <= 18 else 1
    figure.set_size_inches(SIZE[0], SIZE[1] + LINE * -(-len(labels) // columns))
    figure.legend(handles, labels, fontsize=TEXT, ncols=columns, loc="outside lower center", frameon=False)
    return figure


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
    figure, axes = start(f"{metric}, %", "alone", f"on the gallery of {old}")
    axes.axhline(value(report, old, old, metric), color="0.4", label=short(f"{old} alone"))
    band = report["matrix"][old][old][metric]["interval"]
    if band:
        axes.axhspan(100 * band[0], 100 * band[1], color="0.5", alpha=0.12)
    if paragon:
        axes.axvline(value(report, paragon, paragon, metric), color="tab:orange", linestyle="--",
                     label=short(f"{paragon} alone"))
    for number, (name, upgrade) in enumerate(report["upgrades"].items()):
        if name != paragon:
            mark = MARKERS[number % len(MARKERS)]
            bars = axes.errorbar(value(report, name, name, metric), value(report, name, old, metric),
                                 errors(report, name, old, metric), errors(report, name, name, metric), fmt=mark, elinewidth=0.6,
                                 alpha=0.9, markerfacecolor="none" if upgrade["free"] else None, label=short(name))
            seeds = [100 * np.array(report["matrix"][name][gallery][metric]["each"], float) for gallery in (name, old)]
            if len(seeds[0]) > 1:
                axes.plot(*seeds, mark, color=bars.lines[0].get_color(), markersize=3, alpha=0.5)
    return add_legend(figure, axes)


def heat_map(report: dict, metric: str) -> Figure:
    """The metric of every query model on every gallery."""
    names = list(report["matrix"])
    table = np.array([[report["matrix"][q][g][metric]["value"] if g in report["matrix"][q] else np.nan for g in names]
                      for q in names], float) * 100
    figure, axes = start(f"{metric}, %", "gallery", "query")
    figure.set_size_inches(max(SIZE[0], 1.5 + CELL * len(names)), max(SIZE[1], 1.5 + 0.6 * CELL * len(names)))
    axes.imshow(table, cmap="viridis", aspect="auto", vmin=0, vmax=max(1.0, np.nanmax(table)))
    axes.grid(False)
    axes.set_xticks(range(len(names)), list(map(short, names)), rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), list(map(short, names)))
    for (i, j), number in np.ndenumerate(table):
        if np.isfinite(number):
            axes.text(j, i, f"{number:.1f}", ha="center", va="center", fontsize=TEXT - 1,
                      color="white" if number < 0.6 * np.nanmax(table) else "black")
    return figure


def roc(report: dict, name: str) -> Figure:
    """ROC of the old system, of new queries on its gallery, and of everything re-embedded."""
    old, paragon = report["old"], report["paragon"]
    figure, axes = start(f"ROC of {name}", "false accept rate (FAR)", "true accept rate (TAR), %")
    lines = {f"{old} / {old}": "0.4", f"{name} / {old}": "tab:green", f"{name} / {name}": "tab:blue"}
    if paragon and paragon != name:
        lines[f"{paragon} / {paragon}"] = "tab:orange"
    for label, colour in lines.items():
        curve = report["curves"][label]
        axes.plot(curve["far"], 100 * np.array(curve["tar"], float), color=colour, label=short(label), linewidth=1.5)
        if "low" in curve:
            far = curve["far"][:len(curve["low"])]
            low, high = (100 * np.array(curve[side], float) for side in ("low", "high"))    # None, for NaN in JSON, becomes NaN
            axes.fill_between(far, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xscale="log")
    start_far, end = report["curves"][f"{old} / {old}"]["far"][0], FARS[-1]
    if start_far < end:
        axes.set_xlim(start_far, end)       # the bands end there, too
    return add_legend(figure, axes)


def backfill(report: dict, name: str, metric: str) -> Figure:
    """The metric while the gallery is re-embedded: a line per order, for random orders their mean and range."""
    old, paragon = report["old"], report["paragon"]
    figure, axes = start(f"Gallery re-embedded with {name}", "share of the gallery re-embedded, %", f"{metric}, %")
    axes.axhline(value(report, old, old, metric), color="0.4", linewidth=1, label=short(f"{old} alone"))
    if paragon and paragon != name:
        axes.axhline(value(report, paragon, paragon, metric), color="tab:orange", linewidth=1, linestyle="--",
                     label=short(f"{paragon} alone"))
    for order, curve in report["upgrades"][name]["backfill"].items():
        if metric not in curve["values"]:
            continue
        share, values = 100 * np.array(curve["share"]), 100 * np.array(curve["values"][metric], float)
        line, = axes.plot(share, values.mean(0), linewidth=1.5, label=order)
        if len(values) > 1:
            axes.fill_between(share, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
        if "mapped" in curve:
            axes.plot(share, mean(curve["mapped"], metric), "--", color=line.get_color(), linewidth=1.5)
    if any("mapped" in curve for curve in report["upgrades"][name]["backfill"].values()):
        axes.plot([], [], "--", color="0.4", label="mapped scores")
    axes.set_xlim(0, 100)
    return add_legend(figure, axes)


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
    axes.axhline(old, color="0.4", linewidth=1, label=plain(f"{report['old']} alone"))
    share = axes.secondary_xaxis("top", functions=(lambda x: 100 * np.asarray(x) / total, lambda x: np.asarray(x) * total / 100))
    share.set_xlabel("share re-embedded, %", fontsize=TEXT)
    share.tick_params(labelsize=TEXT)
    axes.plot([], [], " ", label=f"order: {plain(order)}")
    return add_legend(figure, axes)
