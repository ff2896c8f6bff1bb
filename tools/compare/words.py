"""The page's glossary: every term and abbreviation that the page uses.  Terms and meanings are in words.txt."""

from pathlib import Path

from evaluation.evaluation_set import MIN_ERRORS, MIN_SUBJECTS
from evaluation.sanity import WEAK
from tools.compare.tables import meaning_of_verdicts
from tools.compare.texts import points, whole_percent

ABOUT_INTERVALS = ("bootstrap", "interval")      # terms that a page without intervals does not use


def glossary(report: dict) -> list[tuple[str, str]]:
    """(term, meaning) in alphabetical order.  A paragraph of words.txt is a term, and its meaning from the second line on."""
    bands = "The grey line and band, the bars and the bands around lines are 95 % intervals. " if report["draws"] else ""
    text = (Path(__file__).parent / "words.txt").read_text(encoding="utf-8").format(
        bands=bands, verdicts=meaning_of_verdicts(report), counted=len(report["reliable"]), min_errors=MIN_ERRORS,
        min_subjects=MIN_SUBJECTS, weak=whole_percent(WEAK), part=whole_percent(report["part"]),
        margin=points(report["margin"]))
    terms = [paragraph.split("\n", 1) for paragraph in text.strip().split("\n\n")]
    return [(term, " ".join(meaning.split())) for term, meaning in terms if report["draws"] or term not in ABOUT_INTERVALS]
