"""A table of text, and the figures of a report as text."""

from dataclasses import dataclass

from prettytable import PrettyTable

from evaluation.evaluation_set import kind_of, protocol_of
from evaluation.trainings import MOST

# Parts of the page, in their order.
ANSWER, FIGURES, CERTAINTY, THRESHOLDS, REEMBEDDING, MATRIX = (
    "The answer", "Figures of each version", "How sure this is, and what would make it surer", "Thresholds and flips",
    "Re-embedding the gallery", "Every version against every version")


@dataclass(frozen=True)
class Table:
    """A table of text; the first column names the rows.  part: the part of the page that it belongs to."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    part: str = FIGURES

    def text(self) -> str:
        """Title, table and note as plain text."""
        table = PrettyTable(self.columns, align="r")
        table.align[self.columns[0]] = "l"
        table.add_rows(self.rows)
        return "\n".join(filter(None, [self.title, table.get_string(), self.note]))


def value(report: dict, query: str, gallery: str, metric: str) -> dict:
    """{"value", "interval", "each"} of a metric in a cell, as shares."""
    return report["matrix"][query][gallery][metric]


def main_metric(report: dict) -> str:
    """The headline figure that the answer shows: the first that counts and has a threshold, else one that counts, or any."""
    ranked = sorted(report["headline"], key=lambda metric: (metric not in report["reliable"], "@" not in metric))
    return ranked[0]


def meaning_of(metric: str) -> str:
    """What a figure is, for somebody who never saw its name."""
    if kind_of(metric) == "top":
        k = metric.partition("-")[2]
        return f"share of the searches in which the right person is {'first' if k == '1' else f'among the first {k}'}"
    often = f"1 of {1 / float(metric.partition('@')[2]):,.0f}"
    if kind_of(metric) == "TAR":
        return f"share of the pairs of one person that are accepted, while {often} pairs of two people is accepted"
    return (f"share of the searches in which the right person is first and above the threshold, while {often} unknown people "
            f"gets an answer")


def threshold_row(report: dict, name: str, metric: str) -> dict | None:
    """The row about today's threshold for a metric of a candidate; None if it has no threshold."""
    rows = report["upgrades"][name]["threshold"][protocol_of(metric)]
    return next((row for row in rows if metric.endswith(f"@{row['rate']}")), None)


def cheapest(report: dict, name: str, metric: str) -> tuple[int, str] | None:
    """(images, order) of the cheapest order of re-embedding that reaches the part of the gain; None if no order does.

    With comparable (mapped) scores, as tools/gallery searches, if the gallery is large enough for their maps.
    """
    ways = [(way_of(curve)[metric]["images"], order) for order, curve in report["upgrades"][name].get("backfill", {}).items()
            if metric in curve["values"] and way_of(curve)[metric]["images"] is not None]
    return min(ways) if ways else None


def way_of(curve: dict) -> dict:
    """The mapped curve of an order of re-embedding, or the raw one if there is no mapped one."""
    return curve.get("mapped", curve)


def false_rate(metric: str) -> str:
    """The name of the false rate that a figure with a threshold is about."""
    return "FAR" if kind_of(metric) == "TAR" else "FPIR"


def bounds(interval: list | None) -> str:
    """An interval of shares as "1.0 to 2.5", in %."""
    return "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def span(interval: list | None) -> str:
    """An interval of shares as " (1.0 to 2.5)", in %."""
    return "" if interval is None else f" ({bounds(interval)})"


def change(entry: dict) -> str:
    """A difference with its interval, in points: "-0.56 points (-2.9 to 1.8)"."""
    return f"{100 * entry['difference']:+.2f} points{span(entry['interval'])}"


def points(share: float) -> str:
    """A share as "1 point" or "2.5 points"."""
    return f"{100 * share:g} point" + ("" if round(100 * share, 9) == 1 else "s")


def small(value: float) -> str:
    """A rate in %, with two significant digits."""
    return f"{100 * value:.2g}"


def whole_percent(value: float | None) -> str:
    """A share in whole %; n/a for None."""
    return "n/a" if value is None else f"{100 * value:.0f}"


def one_decimal(value: float) -> str:
    """A share in %, with one decimal."""
    return f"{100 * value:.1f}"


def numbers(thresholds: float | list[float]) -> str:
    """One threshold, or one per gallery."""
    return " / ".join(f"{x:.3f}" for x in (thresholds if isinstance(thresholds, list) else [thresholds]))


def more(needed: dict[str, int | None]) -> str:
    """How many more people or trainings do."""
    if needed["people"] == 0:
        return "enough"
    parts = [f"{needed[kind]:,} more {kind}" for kind in ("people", "trainings") if needed[kind] is not None]
    return " or ".join(parts) or f"more than {MOST} times the people"
