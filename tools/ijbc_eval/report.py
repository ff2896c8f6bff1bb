"""Results of the evaluator as files (.npz for plots and tools, .json for people and scripts), tables and plots."""

import json
from itertools import count
from pathlib import Path

import numpy as np
from prettytable import PrettyTable

from evaluation.formats import percent, rate
from utils.arrays import read_npz
from utils.errors import UserError
from utils.files import write_text, written_beside

# Protocol -> {end of the plot's file name: (arrays of x and y in the .npz, labels of x and y, scales of x and y)}.
CURVES = {
    "1:1": {"roc": ("far", "tar", "false accept rate", "true accept rate", "log", "linear"),
            "det": ("far", "frr", "false accept rate", "false reject rate", "log", "log")},
    "1:N": {"tpir": ("fpir", "tpir", "false positive identification rate",
                     "true positive identification rate", "log", "linear"),
            "cmc": ("ranks", "cmc", "rank", "share of mated probes identified", "linear", "linear")},
}


def save_result(file: Path, report: dict, arrays: dict) -> None:
    """Write ``file`` (.npz) with arrays and report, and the report alone as .json; each file is complete or not there."""
    text = json.dumps(report, indent=1)
    with written_beside(file) as part, open(part, "wb") as handle:
        np.savez(handle, report=np.array(text), **arrays)
    write_text(file.with_suffix(".json"), text + "\n")


def load_result(file: Path) -> tuple[dict, dict]:
    """(report, arrays of the curves and their names) of a result file; its scores and embeddings are not read.

    UserError if it is not a result file.
    """
    try:
        report = json.loads(str(read_npz(file, ("report",))["report"]))
        curves = CURVES[report["settings"]["protocol"]].values()
        keys = {"names"} | {key for curve in curves for key in curve[:2]}
        arrays = read_npz(file, keys)
        return report, {key: arrays[key] for key in keys}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is not a result file of this evaluator ({type(error).__name__}: {error}); "
                        f"make one with -m MODEL -R {file}") from error


def figures_by_name(report: dict) -> dict[str, dict]:
    """{name of a table row: figures}, one row for each mode that was run."""
    settings = report["settings"]
    name = f"{settings['name']} {settings['subset']}"
    if "modes" not in report:
        return {name: report[settings["protocol"]]}
    return {f"{name} {mode}": figures for mode, figures in report["modes"].items()}


def table_one_to_one(rows: dict[str, dict]) -> str:
    """TAR in % per FAR, and the area under the curve."""
    first = next(iter(rows.values()))
    table = PrettyTable(["1:1, TAR in % at FAR", *map(rate, first["FAR"]), "AUC"], align="r")
    table.align["1:1, TAR in % at FAR"] = "l"
    notes = {}
    for name, figures in rows.items():
        table.add_row([name, *map(percent, figures["TAR"]), percent(figures["auc"])])
        if None in figures["TAR"]:
            notes[f"n/a (FAR < 1/{figures['different']}): {figures['different']} impostor pairs do not support such a FAR"] = True
    return "\n".join([table.get_string(), *notes])


def table_one_to_many(rows: dict[str, dict]) -> str:
    """Top-k and TPIR in % for each gallery, for the merged gallery (mixed), and the mean of the galleries."""
    first = next(iter(rows.values()))
    table = PrettyTable(["1:N, in %", "gallery", "subjects", "mated", "non-mated",
                         *(f"top-{k}" for k in first["top"]),
                         *(f"TPIR@{rate(fpir)}" for fpir in first["FPIR"])], align="r")
    table.align["1:N, in %"] = table.align["gallery"] = "l"
    notes = {}
    for name, figures in rows.items():
        for gallery, single in figures["galleries"].items():
            table.add_row([name, gallery, single["entries"], single["mated"], single["nonmated"],
                           *map(percent, single["top"].values()), *map(percent, single["TPIR"])])
            if not single["mated"]:
                notes[f"n/a: no probe has a mate in {gallery}"] = True
            elif None in single["TPIR"]:
                notes[f"n/a: the {single['nonmated']} non-mated probes of {gallery} do not support such an FPIR"] = True
        table.add_row([name, "mean", "", figures["mated"], "", *map(percent, figures["top"].values()),
                       *map(percent, figures["TPIR"])], divider=True)
        if figures["mated"] != figures["probes"]:
            top = ", ".join(f"top-{k} {percent(v)}" for k, v in figures["top_of_all_probes"].items())
            notes[f"{name}: mean as a share of all {figures['probes']} probes, also the non-mated ones: {top}"] = True
    return "\n".join([table.get_string(), *notes])


TABLES = {"1:1": table_one_to_one, "1:N": table_one_to_many}


def print_tables(reports: list[dict]) -> None:
    """Print one table per protocol, with the rows of all reports."""
    for protocol, table in TABLES.items():
        rows: dict[str, dict] = {}
        for report in reports:
            if report["settings"]["protocol"] == protocol:
                rows |= {unused(name, rows): figures for name, figures in figures_by_name(report).items()}
        if rows:
            print(table(rows))


def unused(name: str, names: dict) -> str:
    """``name``, or "name (2)", "name (3)" and so on if it is already in ``names``."""
    return next(new for k in count(1) if (new := name if k == 1 else f"{name} ({k})") not in names)


def plot_results(results: list[tuple[dict, dict]], prefix: Path) -> list[Path]:
    """Write <prefix>_roc.png, _det.png (1:1), _tpir.png and _cmc.png (1:N) with the curves of all results."""
    files = []
    for protocol, curves in CURVES.items():
        of_protocol = [arrays for report, arrays in results if report["settings"]["protocol"] == protocol]
        for kind, (x, y, *labels) in curves.items():
            lines = [line for arrays in of_protocol
                     for line in zip(arrays["names"], arrays[x], arrays[y], strict=True)]
            if lines:
                files.append(prefix.with_name(f"{prefix.name}_{kind}.png"))
                plot(files[-1], lines, *labels)
    return files


def plot(file: Path, lines: list[tuple], xlabel: str, ylabel: str, xscale: str, yscale: str) -> None:
    """Plot (name, x, y) lines into a PNG file; this needs no display."""
    from matplotlib.figure import Figure  # takes 0.7 s, and only plots need it

    figure = Figure(figsize=(7, 5))
    axes = figure.subplots()
    if not any((y > 0).any() for _, _, y in lines):     # no errors at all: a log axis would be empty
        yscale = "linear"
    for name, x, y in lines:
        shown = np.where(y > 0, y, np.nan) if yscale == "log" else y
        axes.plot(x, shown, linewidth=1.2, label=str(name).replace("$", r"\$"))         # $ begins a formula
    axes.set(xlabel=xlabel, ylabel=ylabel, xscale=xscale, yscale=yscale)
    if yscale == "linear":
        axes.set_ylim(0, 1.02)
    axes.grid(linestyle="--", linewidth=0.5)
    axes.legend(fontsize="x-small")
    with written_beside(file) as part:
        figure.savefig(part, format="png", dpi=150)
