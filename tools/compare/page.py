"""The report as one HTML file that needs no other: for a browser, a mail or a phone.

The text and the layout are in page.html, a jinja2 template; this module prepares its values.  The template escapes every
value (autoescape), so a name with ``<``, ``&`` or quotes is shown as it is.
"""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evaluation.judgement import BETTER, UNCLEAR, WORSE
from tools.compare.tables import Table, how, reasons
from utils.files import write_text

# Class in the style sheet of each verdict.
MARKS = {BETTER: "better", "compatible": "better", WORSE: "worse", "not compatible": "worse", UNCLEAR: "unclear",
         "better in some, worse in others": "unclear", "not distinguishable from the old model": "unclear"}


def write_page(report: dict, tables: list[Table], pictures: dict[str, Path], file: Path) -> None:
    """Write the page to ``file``, whole or not at all; UserError if it cannot be written."""
    write_text(file, page(report, tables, pictures))


def page(report: dict, tables: list[Table], pictures: dict[str, Path]) -> str:
    """HTML of the page.  pictures: {caption: PNG file}; the first tables and pictures are those of the headline figures."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    environment.filters["count"] = "{:,}".format
    headline = len(report["headline"])          # a picture and a table each; then a table of all figures
    shown = [{"caption": caption, "png": base64.b64encode(file.read_bytes()).decode()} for caption, file in pictures.items()]
    return environment.get_template("page.html").render(
        report=report, evaluation=report["evaluation"], marks=MARKS,
        answers=[{"name": name, "verdict": upgrade["overall"], "reasons": reasons(name, report)}
                 for name, upgrade in report["upgrades"].items()],
        first_pictures=shown[:headline], more_pictures=shown[headline:],
        first_tables=tables[:headline + 1], more_tables=tables[headline + 1:],
        meaning_of_better=how(report), versions=versions_table(report))


def versions_table(report: dict) -> Table:
    rows = [[name, str(entry["dim"]), entry["network"] or "", entry.get("fingerprint", "")[:12], entry["file"] or "linear map"]
            for name, entry in report["versions"].items()]
    return Table("Versions", ["name", "dimensions", "network", "fingerprint", "file"], rows)
