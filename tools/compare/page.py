"""The report as one HTML file that needs no other file, for a browser, a mail or a phone.

Text and layout are in page.html, a jinja2 template; this module prepares its values. The template escapes every value
(autoescape), so a name with ``<``, ``&`` or quotes is shown as it is.
"""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evaluation.judgement import BETTER, CONTRADICTORY, NO_VERDICT, PARTLY, SAFE, UNDECIDED, WORSE
from tools.compare.answer import (
    NO,
    NO_ANSWER,
    OPEN,
    PERHAPS,
    YES,
    answer_caption,
    answer_columns,
    answer_rows,
)
from tools.compare.pictures import DPI, TEXT
from tools.compare.tables import NEEDS_A_MAP, NOT_COUNTED, SEE_MAPS
from tools.compare.texts import CERTAINTY, FIGURES, MATRIX, REEMBEDDING, THRESHOLDS, Table, main_metric
from tools.compare.words import glossary
from utils.files import write_text

# Verdict or answer -> its class in the style sheet.
MARKS = {BETTER: "better", SAFE: "safe", PARTLY: "partly", UNDECIDED: "undecided", WORSE: "worse", CONTRADICTORY: "worse",
         NOT_COUNTED: "grey", NO_VERDICT: "grey", NEEDS_A_MAP: "grey", SEE_MAPS: "grey", YES: "better", PERHAPS: "partly",
         OPEN: "undecided", NO: "worse", NO_ANSWER: "grey"}
READABLE = 11.2 * 72 / (TEXT * DPI)     # CSS pixels of the page for a pixel of a picture, at which its text is 11.2 of them high
PARTS = {"scatter": FIGURES, "roc": THRESHOLDS, "backfill": REEMBEDDING, "matrix": MATRIX}      # first word of a file -> its part


class Picture:
    """A picture as the page needs it."""

    def __init__(self, caption: str, path: Path):
        content = path.read_bytes()
        self.caption, self.file, self.part = caption, path.name, PARTS[path.name.split("_")[0]]
        self.png = base64.b64encode(content).decode()
        self.width = round(READABLE * int.from_bytes(content[16:20], "big"))        # a PNG has its width there


def write_page(report: dict, tables: list[Table], pictures: dict[str, Path], file: Path) -> None:
    """Write the page to ``file``, complete or not at all; UserError if it cannot be written."""
    write_text(file, page(report, tables, pictures))


def page(report: dict, tables: list[Table], pictures: dict[str, Path]) -> str:
    """The page as HTML.  pictures: {caption: PNG file}, whose name begins with a key of PARTS."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    environment.filters["count"] = "{:,}".format
    shown = [Picture(caption, file) for caption, file in pictures.items()]
    first = [picture for picture in shown if picture.file == f"scatter_{main_metric(report)}.png"]
    parts = [{"title": part, "tables": [table for table in tables if table.part == part],
              "pictures": [picture for picture in shown if picture not in first and picture.part == part]}
             for part in (FIGURES, CERTAINTY, THRESHOLDS, REEMBEDDING, MATRIX)]
    return environment.get_template("page.html").render(
        report=report, evaluation=report["evaluation"], marks=MARKS, answer=report["answer"], first_pictures=first,
        parts=[part for part in parts if part["tables"] or part["pictures"]], caption=answer_caption(report),
        columns=answer_columns(report), rows=answer_rows(report), versions=versions_table(report), glossary=glossary(report))


def versions_table(report: dict) -> Table:
    """Dimensions, network and file of each version."""
    rows = [[name, str(entry["dim"]), str(entry["trainings"]), entry["network"] or "", entry.get("fingerprint", "")[:12],
             entry["file"] or "a map"] for name, entry in report["versions"].items()]
    return Table("Versions", ["name", "dimensions", "trainings", "network", "fingerprint", "file"], rows)
