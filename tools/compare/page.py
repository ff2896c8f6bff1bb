"""The report as one HTML file that needs no other file, for a browser, a mail or a phone.

Text and layout are in page.html, a jinja2 template; this module prepares its values. The template escapes every value
(autoescape), so a name with ``<``, ``&`` or quotes is shown as it is.
"""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evaluation.evaluation_set import MIN_ERRORS, MIN_SUBJECTS
from evaluation.judgement import BETTER, CONTRADICTORY, NO_VERDICT, PARTLY, SAFE, UNDECIDED, WORSE
from tools.compare.sentences import reasons
from tools.compare.tables import NOT_COUNTED, Table, meaning_of_verdicts
from utils.files import write_text

# Verdict -> its class in the style sheet.
MARKS = {BETTER: "better", SAFE: "safe", PARTLY: "partly", UNDECIDED: "undecided", WORSE: "worse", CONTRADICTORY: "worse",
         NOT_COUNTED: "grey", NO_VERDICT: "grey"}


def write_page(report: dict, tables: list[Table], pictures: dict[str, Path], file: Path) -> None:
    """Write the page to ``file``, complete or not at all; UserError if it cannot be written."""
    write_text(file, page(report, tables, pictures))


def page(report: dict, tables: list[Table], pictures: dict[str, Path]) -> str:
    """The page as HTML.

    pictures: {caption: PNG file}.  The first tables and pictures belong to the headline figures, one of each per figure.
    """
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    environment.filters["count"] = "{:,}".format
    headline = len(report["headline"])
    shown = [{"caption": caption, "png": base64.b64encode(file.read_bytes()).decode()} for caption, file in pictures.items()]
    return environment.get_template("page.html").render(
        report=report, evaluation=report["evaluation"], marks=MARKS,
        answers=[{"name": name, "verdict": upgrade["overall"], "reasons": reasons(name, report)}
                 for name, upgrade in report["upgrades"].items()],
        first_pictures=shown[:headline], more_pictures=shown[headline:],
        first_tables=tables[:headline + 1], more_tables=tables[headline + 1:],      # + 1: the table of all figures
        meaning_of_verdicts=meaning_of_verdicts(report), min_errors=MIN_ERRORS, min_subjects=MIN_SUBJECTS,
        versions=versions_table(report))


def versions_table(report: dict) -> Table:
    """Dimensions, network and file of each version."""
    rows = [[name, str(entry["dim"]), entry["network"] or "", entry.get("fingerprint", "")[:12], entry["file"] or "linear map"]
            for name, entry in report["versions"].items()]
    return Table("Versions", ["name", "dimensions", "network", "fingerprint", "file"], rows)
