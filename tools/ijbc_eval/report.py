"""Results as files (npz for plots and tools, JSON for people and scripts), as tables and as figures."""

import json
from itertools import count
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from prettytable import PrettyTable

from evaluation.formats import percent, rate
from utils.arrays import read_npz
from utils.errors import UserError
from utils.files import write_text, written_beside

# Curves of each protocol: end of the file's name -> (x and y array of the npz, their labels, their scales).
CURVES = {
    "1:1": {"roc": ("far", "tar", "false accept rate", "true accept rate", "log", "linear"),
            "det": ("far", "frr", "false accept rate", "false reject rate", "log", "log")},
    "1:N": {"tpir": ("fpir", "tpir", "false positive identification rate",
                     "true positive identification rate", "log", "linear"),
            "cmc": ("ranks", "cmc", "rank", "share of mated probes found", "linear", "linear")},
}


def save_result(file: Path, report: dict, arrays: dict) -> None:
    """Write <file>.npz with the report in it and the report alone as .json, each whole or not at all."""
    text = json.dumps(report, indent=1)
    with written_beside(file) as part, open(part, "wb") as handle:
        np.savez(handle, report=np.array(text), **arrays)
    write_text(file.with_suffix(".json"), text + "\n")


def load_result(file: Path) -> tuple[dict, dict]:
    """(report, curves with names) of a result file; its scores and embeddings are left where they are."""
    try:
        report = json.loads(str(read_npz(file, ("report",))["report"]))
        curves = CURVES[report["settings"]["protocol"]].values()
        wanted = {"names"} | {key for curve in curves for key in curve[:2]}
        arrays = read_npz(file, wanted)
        return report, {key: arrays[key] for key in wanted}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is no result file of this evaluator ({type(error).__name__}: {error}); "
                        f"make one with -m MODEL -R {file}") from error


def figures_by_name(report: dict) -> dict[str, dict]:
    """{row of a table: figures}: the eight modes of -B, or the one that was run."""
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
            notes[f"n/a (< 1/{figures['different']} negatives): this data cannot tell such a FAR"] = True
    return "\n".join([table.get_string(), *notes])


def table_one_to_many(rows: dict[str, dict]) -> str:
    """Top-k and TPIR in %, per gallery, for the two together and for a search in the merged gallery."""
    first = next(iter(rows.values()))
    table = PrettyTable(["1:N, in %", "gallery", "subjects", "mated", "others",
                         *(f"top-{k}" for k in first["top"]),
                         *(f"TPIR@{rate(fpir)}" for fpir in first["FPIR"])], align="r")
    table.align["1:N, in %"] = table.align["gallery"] = "l"
    notes = {}
    for name, figures in rows.items():
        for gallery, of in figures["galleries"].items():
            table.add_row([name, gallery, of["entries"], of["mated"], of["nonmated"],
                           *map(percent, of["top"].values()), *map(percent, of["TPIR"])])
            if None in of["TPIR"]:
                negatives = f"(< 1/{of['nonmated']} negatives)" if of["nonmated"] else "(no negatives)"
                notes[f"n/a {negatives}: {gallery} has too few probes without a mate for such an FPIR"] = True
        table.add_row([name, "mean", "", figures["mated"], "", *map(percent, figures["top"].values()),
                       *map(percent, figures["TPIR"])], divider=True)
        if figures["mated"] != figures["probes"]:
            top = ", ".join(f"top-{k} {percent(v)}" for k, v in figures["top_of_all_probes"].items())
            notes[f"{name}: mean as a share of all {figures['probes']} probes, mated or not: {top}"] = True
    return "\n".join([table.get_string(), *notes])


TABLES = {"1:1": table_one_to_one, "1:N": table_one_to_many}


def print_tables(reports: list[dict]) -> None:
    """One table per protocol, with the rows of all reports."""
    for protocol, table in TABLES.items():
        rows: dict[str, dict] = {}
        for report in reports:
            if report["settings"]["protocol"] == protocol:
                rows |= {unused(name, rows): figures for name, figures in figures_by_name(report).items()}
        if rows:
            print(table(rows))


def unused(name: str, names: dict) -> str:
    """``name``, or name (2), name (3) ... where another result has it already."""
    return next(new for k in count(1) if (new := name if k == 1 else f"{name} ({k})") not in names)


def plot_results(results: list[tuple[dict, dict]], prefix: Path) -> list[Path]:
    """Figures <prefix>_roc.png, _det.png (1:1), _tpir.png, _cmc.png (1:N) with the curves of all results."""
    files = []
    for protocol, curves in CURVES.items():
        chosen = [arrays for report, arrays in results if report["settings"]["protocol"] == protocol]
        for kind, (x, y, *labels) in curves.items():
            lines = [line for arrays in chosen
                     for line in zip(arrays["names"], arrays[x], arrays[y], strict=True)]
            if lines:
                files.append(prefix.with_name(f"{prefix.name}_{kind}.png"))
                plot(files[-1], lines, *labels)
    return files


def plot(file: Path, lines: list[tuple], xlabel: str, ylabel: str, xscale: str, yscale: str) -> None:
    """Draw (name, x, y) lines into a PNG; without a window, on any machine."""
    figure = Figure(figsize=(7, 5))
    axes = figure.subplots()
    if not any((y > 0).any() for _, _, y in lines):     # not one error: nothing that a log axis could show
        yscale = "linear"
    for name, x, y in lines:
        shown = np.where(y > 0, y, np.nan) if yscale == "log" else y
        axes.plot(x, shown, linewidth=1.2, label=str(name))
    axes.set(xlabel=xlabel, ylabel=ylabel, xscale=xscale, yscale=yscale)
    if yscale == "linear":
        axes.set_ylim(0, 1.02)
    axes.grid(linestyle="--", linewidth=0.5)
    axes.legend(fontsize="x-small")
    with written_beside(file) as part:
        figure.savefig(part, format="png", dpi=150)
