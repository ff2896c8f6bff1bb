"""The report as tables, for the terminal, compare.txt and the page."""

from evaluation.evaluation_set import MIN_ERRORS, MIN_SUBJECTS, protocol_of
from evaluation.formats import percent
from evaluation.judgement import BETTER, NO_VERDICT, POINTS, SAFE, UNDECIDED, WORSE
from tools.compare.texts import (
    CERTAINTY,
    MATRIX,
    REEMBEDDING,
    THRESHOLDS,
    Table,
    more,
    numbers,
    one_decimal,
    small,
    span,
    value,
    way_of,
    whole_percent,
)

NOT_COUNTED = "does not count"
NEEDS_A_MAP, SEE_MAPS = "needs a map", "see its maps"      # of a version with other dimensions than the old one
NO_GAIN = "means nothing"
SOURCES = ("people", "seed", "old model")


def tables_of(report: dict) -> list[Table]:
    """The tables of the details, in the order of the page: one for each headline figure, then that of all figures, and so on."""
    made = [*(verdict_table(report, metric) for metric in report["headline"]), summary_table(report), figures_table(report),
            sources_table(report), *threshold_tables(report), flip_table(report), *backfill_tables(report),
            *matrix_tables(report)]
    if "AC" in report:
        made.append(drift_table(report))
        made.append(Table("Sequence of versions: AC, share of the pairs (newer, older) that meet the criterion, in %",
                          ["", *report["AC"]], [["AC", *map(whole_percent, report["AC"].values())]], part=MATRIX))
    return [table for table in made if table is not None]


def drift_table(report: dict) -> Table:
    """Of a sequence: each version's queries on the gallery of the oldest one, which nobody has embedded again."""
    oldest = report["old"]
    metrics = list(report["AC"])
    rows = [[name, *(percent(report["matrix"][name][oldest][metric]["value"]) if oldest in report["matrix"][name] else "n/a"
                     for metric in metrics)] for name in report["sequence"]]
    title = f"Sequence of versions: drift, queries of each version on the gallery of {oldest}, in %"
    return Table(title, ["query", *metrics], rows, part=MATRIX)


def verdict_table(report: dict, metric: str) -> Table:
    """For one metric: each candidate on the old gallery and alone, and the verdict."""
    old, paragon = report["old"], report["paragon"]

    def cell(query: str, gallery: str) -> str:
        entry = value(report, query, gallery, metric)
        return percent(entry["value"]) + span(entry["interval"])

    rows = [[old, "", cell(old, old), "", "", cell(old, old)]]
    for name, upgrade in report["upgrades"].items():
        entry = upgrade["criterion"][metric]
        gain = gain_text(upgrade["gain"][metric]) if paragon else "n/a"
        change = f"{100 * entry['difference']:+.2f}{span(entry['interval'])}"
        rows.append([name, word(name, metric, report), cell(name, old), change, gain, cell(name, name)])
    for name in others(report):
        dimensions = f"{report['versions'][name]['dim']} dimensions"
        rows.append([name, word_for_other(name, report), dimensions, "", "", cell(name, name)])
    return Table(f"{metric}, in %", ["new model", "verdict", f"on the gallery of {old}", f"change against {old} / {old}",
                                     "update gain", "alone"], rows, verdict_note(report, metric, rows))


def gain_text(gain: float | None) -> str:
    """An update gain in %; that it means nothing if the paragon's own gain may be 0."""
    return NO_GAIN if gain is None else whole_percent(gain)


def others(report: dict) -> list[str]:
    """Versions that have figures of their own only, because they have other dimensions than the old one."""
    return [name for name in report["matrix"] if name != report["old"] and name not in report["upgrades"]]


def word_for_other(name: str, report: dict) -> str:
    """What stands in place of a verdict for a version with other dimensions."""
    return SEE_MAPS if any(mapped.startswith(f"{name}+") for mapped in report["free"]) else NEEDS_A_MAP


def verdict_note(report: dict, metric: str, rows: list[list[str]]) -> str:
    """What belongs below the table of a metric."""
    note = ""
    if report["draws"]:
        note = (f"In brackets: 95 % intervals; those of the change hold for all {len(report['reliable'])} figures that count "
                f"together.")
        if metric not in report["reliable"]:
            note += f" {metric} does not count: it rests on fewer than {MIN_ERRORS} errors or {MIN_SUBJECTS} subjects."
    if any(NO_GAIN in row for row in rows):
        note += (f" The update gain means nothing here: {report['paragon']} alone is not shown to be better than {report['old']} "
                 f"alone.")
    return note.strip()


def word(name: str, metric: str, report: dict) -> str:
    """The word for one figure of one candidate; that it does not count, or that there is no verdict."""
    upgrade = report["upgrades"][name]
    if upgrade["overall"] == NO_VERDICT:
        return NO_VERDICT
    return upgrade["criterion"][metric]["verdict"] or NOT_COUNTED


def count_verdicts(upgrade: dict) -> dict[str, int]:
    """{verdict: number of counted metrics with it}."""
    verdicts = [entry["verdict"] for entry in upgrade["criterion"].values()]
    return {kind: verdicts.count(kind) for kind in (BETTER, SAFE, UNDECIDED, WORSE)}


def summary_table(report: dict) -> Table:
    """For all metrics together: the answer, how many counted metrics have each word, and the P scores."""
    rows = []
    for name, upgrade in report["upgrades"].items():
        counts = count_verdicts(upgrade)
        meets = sum(entry["criterion"] for entry in upgrade["criterion"].values())
        scores = [f"{upgrade[key]:.1f}" if upgrade.get(key) is not None else "n/a" for key in ("P_comp", "P_up", "P_1")]
        rows.append([name, upgrade["overall"], f"{meets}", *(str(count) for count in counts.values()), *scores])
    columns = ["new model", "answer", "meets the criterion in", "better in", "safe in", "undecided in", "worse in", "P_comp",
               "P_up", "P_1"]
    return Table(f"All {len(report['metrics'])} figures", columns, rows, summary_note(report))


def summary_note(report: dict) -> str:
    """What the columns of the summary table mean."""
    reliable = ", ".join(report["reliable"]) or "none"
    sentences = ["Criterion: above the old model on its own gallery.", meaning_of_verdicts(report),
                 f"Only the figures that rest on at least {MIN_ERRORS} errors and {MIN_SUBJECTS} subjects count ({reliable})."]
    if report["paragon"]:
        sentences.append("P_comp can be above 50 although some figures fail the criterion.")
    return " ".join(sentences)


def meaning_of_verdicts(report: dict) -> str:
    """What the words mean in this report."""
    margin = f"{100 * report['margin']:g}"
    if not report["draws"]:
        return (f"The words are about the difference new - old, without intervals. Better: above 0; safe: above -{margin} "
                f"points; worse: below that.")
    return (f"The words are about the interval of the difference new - old, in percentage points. Better: above 0; safe: above "
            f"-{margin}; worse: below 0 and not safe; undecided: everything else. {about_intervals(report)}")


def about_intervals(report: dict) -> str:
    """What the intervals hold."""
    trainings = max(entry["trainings"] for entry in report["versions"].values())
    text = (f"The intervals hold for all figures that count together with 95 %; they are from {report['draws']} bootstrap "
            f"samples of people")
    if trainings == 1:
        return f"{text}. They are about these trainings: one training of a version tells nothing about another seed."
    seeds = f"{text} and the spread of the trainings (Student's t)."
    return seeds + (" Two trainings are too few for it: take three." if trainings == 2 else "")


def sources_table(report: dict) -> Table | None:
    """Where the error of each headline figure comes from, and what makes it small."""
    rows = []
    for name, upgrade in report["upgrades"].items():
        for metric in report["headline"]:
            entry = upgrade["criterion"][metric]
            if entry["shares"] and entry["to tell"]:
                values = "" if len(entry["each"]) == 1 else " ".join(f"{100 * x:+.2f}" for x in entry["each"])
                shares = [share_of(entry["shares"], source) for source in SOURCES]
                rows.append([name, metric, more(entry["to tell"]), *shares, values])
    note = ("Share of the variance of the difference new - old. With one training nothing is known about seeds; with one old "
            "model, nothing about other old models.")
    return Table("Where the uncertainty comes from, in %", ["new model", "figure", f"to tell {100 * POINTS:g} points apart",
                 *SOURCES, "change of each training"], rows, note, CERTAINTY) if rows else None


def share_of(shares: dict[str, float], source: str) -> str:
    """The share of a source in %; of seed and old model together if each training has its own old model."""
    if source in shares:
        return whole_percent(shares[source])
    both = shares.get("seed and old model")
    return "n/a" if both is None else f"{whole_percent(both)} (both)"


def figures_table(report: dict) -> Table:
    """Every metric of each version on the old gallery and alone."""
    old, rows = report["old"], []
    for name, cells in report["matrix"].items():
        for gallery in [gallery for gallery in dict.fromkeys([old, name]) if gallery in cells]:
            rows.append([f"{name} / {gallery}", *(percent(value(report, name, gallery, m)["value"]) for m in report["metrics"])])
    return Table("Every figure, query / gallery, in %", ["query / gallery", *report["metrics"]], rows)


def threshold_tables(report: dict) -> list[Table | None]:
    """New queries on the old gallery at the old system's thresholds; None for a protocol without such a row."""
    out, old = [], report["old"]
    several = max(entry["trainings"] for entry in report["versions"].values()) > 1
    for protocol, rate, figure in (("1:1", "FAR", "TAR"), ("1:N", "FPIR", "TPIR")):
        rows = [[name, row["rate"], numbers(row["new threshold"]), numbers(row["threshold"]), percent(row["new"]),
                 percent(row["mixed"]), percent(row["old"]), small(row["mixed rate"]), small(row["old rate"]),
                 f"{row['errors']:,} of {row['of']:,}"]
                for name, upgrade in report["upgrades"].items() for row in upgrade["threshold"][protocol]]
        columns = ["new model", rate, "threshold to set", f"today's threshold, of {old}", f"{figure} at the one to set",
                   f"{figure} at today's", f"{figure} of {old}", f"{rate} at today's", f"{rate} of {old}", "errors at today's"]
        notes = ["Each gallery has its own threshold; the errors are those of all galleries."] if protocol == "1:N" else []
        notes += ["Means over the trainings; each training has thresholds of its own."] if several else []
        title = f"{protocol}: new queries on the gallery of {old} at today's threshold and at a new one, in %"
        out.append(Table(title, columns, rows, " ".join(notes), THRESHOLDS) if rows else None)
    return out


def flip_table(report: dict) -> Table:
    """How many decisions flip, of each kind."""
    rows = [[name, kind, percent(entry["negative"] / entry["decisions"]) if entry["decisions"] else "n/a",
             f"{entry['negative']:,}", f"{entry['positive']:,}", f"{entry['decisions']:,}"]
            for name, upgrade in report["upgrades"].items() for kind, entry in upgrade["flips"].items()]
    return Table("Flips: decisions that change when the queries are new and the gallery stays old",
                 ["new model", "judged by", "negative flips, %", "right before, now wrong", "wrong before, now right",
                  "decisions"], rows, "flips_<NAME>.csv lists the probes that flipped, with the rank and cosine of the "
                 "mate and the cosine of the best other subject for old and for new queries; it does not list pairs.", THRESHOLDS)


def backfill_tables(report: dict) -> list[Table]:
    """For each headline figure: the way from no row re-embedded to all rows, in each order."""
    out, part = [], f"{100 * report['part']:.0f} % of the gain"
    for metric in report["headline"]:
        rows = []
        for name, upgrade in report["upgrades"].items():
            for order, curve in upgrade.get("backfill", {}).items():
                if metric not in curve["values"]:
                    continue        # the quality is the same for all rows of this protocol
                entry, way = curve[metric], way_of(curve)[metric]
                reached = ["no gain", ""] if way["share"] is None else [f"{way['images']:,}", whole_percent(way["share"])]
                mean = [sum(point) / len(point) for point in zip(*curve["values"][metric], strict=True)]
                on_the_way = map(percent, (mean[0], min(mean), entry["auc"], *mapped_way(curve, metric), mean[-1]))
                rows.append([name, order, *reached, *on_the_way])
        if rows:
            protocol = protocol_of(metric)
            out.append(Table(f"Re-embedding the gallery step by step: {metric}, in %",
                             ["new model", "order", f"images for {part}", "share of the gallery", "nothing re-embedded",
                              "lowest on the way", "mean on the way", "lowest, mapped scores", "mean, mapped scores",
                              "all re-embedded"], rows,
                             f"Gain: from {report['old']} / {report['old']} to all re-embedded, with mapped scores if there are "
                             f"any. The gallery side of {protocol} "
                             f"has {report['evaluation']['gallery rows'][protocol]:,} entries of "
                             f"{report['evaluation']['gallery images'][protocol]:,} images.", REEMBEDDING))
    return out


def mapped_way(curve: dict, metric: str) -> tuple[float | None, float | None]:
    """The lowest point of a mapped curve and its mean on the way; None without score maps."""
    if "mapped" not in curve:
        return None, None
    points = zip(*curve["mapped"]["values"][metric], strict=True)
    return min(sum(point) / len(point) for point in points), curve["mapped"][metric]["auc"]


def matrix_tables(report: dict) -> list[Table]:
    """The first headline figure of every query model on every gallery."""
    names = list(report["matrix"])
    rows = {metric: [[query, *(one_decimal(report["matrix"][query][g][metric]["value"]) if g in report["matrix"][query] else ""
                               for g in names)] for query in names] for metric in report["headline"][:1]}
    return [Table(f"{metric} of every query model (rows) on every gallery (columns), in %", ["query", *names], own, part=MATRIX)
            for metric, own in rows.items()]
