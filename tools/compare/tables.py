"""The report as tables: for the terminal, for compare.txt and for the page."""

from dataclasses import dataclass

from prettytable import PrettyTable

from evaluation.formats import percent
from evaluation.judgement import BETTER, UNCLEAR, WORSE


@dataclass(frozen=True)
class Table:
    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""

    def text(self) -> str:
        table = PrettyTable(self.columns, align="r")
        table.align[self.columns[0]] = "l"
        table.add_rows(self.rows)
        return "\n".join(filter(None, [self.title, table.get_string(), self.note]))


def span(interval: list | None) -> str:
    return "" if interval is None else f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def small(value: float) -> str:
    """A rate in %, with two digits however small."""
    return f"{100 * value:.2g}"


def whole(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.0f}"


def tables_of(report: dict) -> list[Table]:
    made = [*(verdict_table(report, metric) for metric in report["headline"]), summary_table(report), figures_table(report),
            *threshold_tables(report), flip_table(report), *backfill_tables(report), *matrix_tables(report)]
    if "AC" in report:
        made.append(Table("Sequence of versions: AC, share of the pairs (newer, older) that meet the criterion, in %",
                          ["", *report["AC"]], [["AC", *map(whole, report["AC"].values())]]))
    return [table for table in made if table is not None]


def value(report: dict, query: str, gallery: str, metric: str) -> dict:
    return report["matrix"][query][gallery][metric]


def verdict_table(report: dict, metric: str) -> Table:
    """Alone, on the old gallery, and what follows, for one figure."""
    old, paragon = report["old"], report["paragon"]

    def cell(query: str, gallery: str) -> str:
        found = value(report, query, gallery, metric)
        return percent(found["value"]) + span(found["interval"])

    rows = [[old, "", cell(old, old), "", "", cell(old, old)]]
    for name, upgrade in report["upgrades"].items():
        entry = upgrade["criterion"][metric]
        gain = whole(upgrade["gain"][metric]) if paragon else "n/a"
        change = f"{100 * entry['difference']:+.2f}{span(entry['interval'])}"
        rows.append([name, entry["verdict"], cell(name, old), change, gain, cell(name, name)])
    note = f"In brackets: the middle 95 % of {report['draws']} draws of subjects." if report["draws"] else ""
    return Table(f"{metric}, in %", ["new model", "verdict", f"on the gallery of {old}", f"change against {old} / {old}",
                                     "update gain", "alone"], rows, note)


def count_verdicts(upgrade: dict) -> dict[str, int]:
    found = [entry["verdict"] for entry in upgrade["criterion"].values()]
    return {kind: found.count(kind) for kind in (BETTER, UNCLEAR, WORSE)}


def summary_table(report: dict) -> Table:
    rows = []
    for name, upgrade in report["upgrades"].items():
        counts = count_verdicts(upgrade)
        meets = sum(entry["criterion"] for entry in upgrade["criterion"].values())
        scores = [f"{upgrade[key]:.1f}" if upgrade.get(key) is not None else "n/a" for key in ("P_comp", "P_up", "P_1")]
        rows.append([name, upgrade["overall"], f"{meets}", *(str(count) for count in counts.values()), *scores])
    return Table(f"All {len(report['metrics'])} figures",
                 ["new model", "verdict", "meets the criterion in", "better in", "not distinguishable in", "worse in", "P_comp",
                  "P_up", "P_1"], rows,
                 f"Criterion: above the old model on its own gallery. {how(report)} The verdict counts only the figures that "
                 f"rest on at least 30 errors and 10 subjects ({', '.join(report['reliable']) or 'none'})"
                 + (", and differences that stand when all of these are looked at together" if report["draws"] else "")
                 + "." + " P_comp over 50 can hide figures that fail." * bool(report["paragon"]))


def how(report: dict) -> str:
    """What better and worse mean."""
    if not report["draws"]:
        return "Better, worse: by the sign of the difference, without intervals."
    return f"Better, worse: the middle 95 % of {report['draws']} draws of subjects lie on that side of 0."


def figures_table(report: dict) -> Table:
    old, rows = report["old"], []
    for name, cells in report["matrix"].items():
        for gallery in [gallery for gallery in dict.fromkeys([old, name]) if gallery in cells]:
            rows.append([f"{name} / {gallery}", *(percent(value(report, name, gallery, m)["value"]) for m in report["metrics"])])
    return Table("Every figure, query / gallery, in %", ["query / gallery", *report["metrics"]], rows)


def threshold_tables(report: dict) -> list[Table | None]:
    """What the old system's thresholds do to new queries on the old gallery."""
    out, old = [], report["old"]
    for protocol, wrong, found in (("1:1", "FAR", "TAR"), ("1:N", "FPIR", "TPIR")):
        rows = [[name, row["rate"], numbers(row["threshold"]), small(row["old rate"]), small(row["mixed rate"]),
                 f"{row['errors']:,} of {row['of']:,}", percent(row["old"]), percent(row["mixed"]), numbers(row["new threshold"])]
                for name, upgrade in report["upgrades"].items() for row in upgrade["threshold"][protocol]]
        out.append(Table(f"{protocol} at today's threshold, new queries on the gallery of {old}, in %",
                         ["new model", f"at {wrong}", "threshold", f"{wrong} of {old}", f"{wrong} then", "false ones",
                          f"{found} of {old}", f"{found} then", f"threshold for the same {wrong}"], rows,
                         "" if protocol == "1:1" else "Each gallery has its own threshold; false ones are those of all.") if rows
                   else None)
    return out


def numbers(thresholds) -> str:
    return " ".join(f"{x:.3f}" for x in (thresholds if isinstance(thresholds, list) else [thresholds]))


def flip_table(report: dict) -> Table:
    rows = [[name, kind, f"{entry['decisions']:,}", f"{entry['negative']:,}", f"{entry['positive']:,}",
             percent(entry["negative"] / entry["decisions"]) if entry["decisions"] else "n/a"]
            for name, upgrade in report["upgrades"].items() for kind, entry in upgrade["flips"].items()]
    return Table("Flips: decisions that change when the queries are new and the gallery stays old",
                 ["new model", "judged by", "decisions", "right before, now wrong", "wrong before, now right",
                  "negative flips, %"], rows, "flips_<NAME>.csv lists the probes, not the pairs: rank and cosine of the mate, "
                 "cosine of the best other subject, with old and new queries.")


def backfill_tables(report: dict) -> list[Table]:
    out, part = [], f"{100 * report['part']:.0f} % of the gain"
    for metric in report["headline"]:
        rows = []
        for name, upgrade in report["upgrades"].items():
            for order, found in upgrade.get("backfill", {}).items():
                entry = found[metric]
                reached = ["no gain", ""] if entry["share"] is None else [whole(entry["share"]), f"{entry['images']:,}"]
                mean = [sum(point) / len(point) for point in zip(*found["values"][metric], strict=True)]
                on_the_way = map(percent, (mean[0], min(mean), entry["auc"], mean[-1]))
                rows.append([name, order, *on_the_way, *reached])
        if rows:
            out.append(Table(f"Re-embedding the gallery bit by bit: {metric}, in %",
                             ["new model", "order", "nothing done", "lowest on the way", "mean over the way", "all done",
                              f"share for {part}", "images"], rows,
                             f"Gain: from {report['old']} / {report['old']} to all done; the gallery has "
                             f"{report['evaluation']['gallery images']:,} images."))
    return out


def matrix_tables(report: dict) -> list[Table]:
    names = list(report["matrix"])
    return [Table(f"{metric} of every query model (rows) on every gallery (columns), in %", ["query", *names],
                  [[query, *(percent(report["matrix"][query][g][metric]["value"]) if g in report["matrix"][query] else ""
                             for g in names)] for query in names]) for metric in report["headline"][:1]]


def verdict_line(name: str, report: dict) -> str:
    """The answer in one sentence."""
    return f"{name}: {report['upgrades'][name]['overall']}, {reasons(name, report)}"


def reasons(name: str, report: dict) -> str:
    """In how many figures that count; what a threshold set anew and today's give; what most of the gain costs."""
    upgrade, old, reliable = report["upgrades"][name], report["old"], report["reliable"]
    counted = [entry["overall"] for entry in upgrade["criterion"].values()]
    text = f"better in {counted.count(BETTER)}, worse in {counted.count(WORSE)} of the {len(reliable)} figures that count"
    metric = next((m for m in report["headline"] if "@" in m), report["headline"][0])
    protocol, rate_name = ("1:1", "FAR") if metric.startswith("TAR") else ("1:N", "FPIR")
    row = next((row for row in upgrade["threshold"][protocol] if metric.endswith(f"@{row['rate']}")), None)
    if row:
        anew = value(report, name, old, metric)["value"]
        text += (f"; {metric} goes from {percent(row['old'])} to {percent(anew)} % if the threshold is set anew, to "
                 f"{numbers(row['new threshold'])}, and to {percent(row['mixed'])} % with today's {numbers(row['threshold'])} "
                 f"({rate_name} {small(row['mixed rate'])} instead of {small(row['old rate'])} %)")
    ways = [(entry[metric]["images"], order) for order, entry in upgrade.get("backfill", {}).items()
            if entry[metric]["images"] is not None]
    if ways:
        images, order = min(ways)
        text += (f"; {100 * report['part']:.0f} % of what re-embedding gains in {metric} is there after {images:,} of "
                 f"{report['evaluation']['gallery images']:,} images (cheapest order: {order})")
    return text
