"""The report as one HTML file that needs no other: for a browser, a mail or a phone."""

import base64
from html import escape
from pathlib import Path

from evaluation.judgement import BETTER, UNCLEAR, WORSE
from tools.compare.tables import Table, how, reasons
from utils.files import write_text

STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 0 1rem 3rem; color: #1c1c1e; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd; }
th { white-space: normal; vertical-align: bottom; }
tr > :first-child { text-align: left; position: sticky; left: 0; background: #fff; }
.answers { padding-left: 1.2rem; } .answers li { margin: .4rem 0; } .note { color: #555; font-size: .85rem; }
.answers span { padding: 0 .3rem; border-radius: .2rem; }
.better { background: #d9f2df; } .worse { background: #fadcd9; } .unclear { background: #f3efd2; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; } img { width: 100%; height: auto; } figcaption { font-size: .85rem; color: #555; }
code { overflow-wrap: anywhere; font-size: .8rem; } dt { font-weight: 600; } dd { margin: 0 0 .5rem; }
"""
MARKED = {BETTER: "better", "compatible": "better", WORSE: "worse", "not compatible": "worse", UNCLEAR: "unclear",
          "better in some, worse in others": "unclear", "not distinguishable from the old model": "unclear"}


def write_page(report: dict, tables: list[Table], pictures: dict[str, Path], file: Path) -> None:
    """Write the page, whole or not at all."""
    write_text(file, page(report, tables, pictures))


def page(report: dict, tables: list[Table], pictures: dict[str, Path]) -> str:
    first = len(report["headline"])             # a picture and a table each; then a table of all figures
    title, evaluation = escape(report["title"]), report["evaluation"]
    setting = (f"Data: {escape(evaluation['name'])}, {evaluation['subjects']:,} subjects, {evaluation['gallery rows']:,} gallery "
               f"entries of {evaluation['gallery images']:,} images, {evaluation['probes']:,} probes"
               + (f", {evaluation['pairs of one person']:,} pairs of one person, {evaluation['negatives']['1:1']:,} of two"
                  if evaluation["pairs of one person"] else "")
               + f". The gallery is stored by <b>{escape(report['old'])}</b>.")
    shown = [picture(*entry) for entry in pictures.items()]
    body = [f"<h1>{title}</h1>", f"<p>{setting}</p>", answers(report), *grid(shown[:first]),
            *(html_table(table) for table in tables[:first + 1]), "<h2>Pictures</h2>", *grid(shown[first:]),
            *(html_table(table) for table in tables[first + 1:]), words(report), versions(report)]
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
            f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n")


def answers(report: dict) -> str:
    items = [f'<li><b>{escape(name)}</b> <span class="{MARKED[upgrade["overall"]]}">{escape(upgrade["overall"])}</span>: '
             f"{escape(reasons(name, report))}</li>" for name, upgrade in report["upgrades"].items()]
    notes = "".join(f'<p class="note">{escape(note)}.</p>' for note in report["notes"])
    return f'<ul class="answers">{"".join(items)}</ul>{notes}'


def html_table(table: Table) -> str:
    def row(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}{marked(cell)}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (f'<h2>{escape(table.title)}</h2>\n<div class="scroll"><table><thead>{row(table.columns, "th")}</thead><tbody>'
            + "\n".join(row(cells, "td") for cells in table.rows) + f"</tbody></table></div>{note}")


def marked(cell: str) -> str:
    return f' class="{MARKED[cell]}"' if cell in MARKED else ""


def grid(pictures: list[str]) -> list[str]:
    return ['<div class="pictures">', *pictures, "</div>"]


def picture(caption: str, file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    return (f'<figure><img alt="{escape(caption, quote=True)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>")


def words(report: dict) -> str:
    """What the words on the page mean."""
    meanings = {
        "alone": "queries and gallery by the new model: what full re-embedding would give",
        "on the gallery of the old model": "new queries, nothing re-embedded",
        "criterion": "the new queries do better on the old gallery than the old model's own",
        "better, worse, not distinguishable": how(report),
        "compatible, not compatible": f"better (worse) in some of the {len(report['reliable'])} figures that count, those that "
                                      f"rest on at least 30 errors and 10 subjects, and worse (better) in none"
                                      + "; with intervals that hold for all of them together" * bool(report["draws"]),
        "update gain": "in %: which part of the way from the old model to the paragon (a new model trained without the old one) "
                       "the new queries have gone",
        "P_comp, P_up, P_1": "100 x mean sigmoid of the update gain; of the relative difference to the paragon alone; their "
                             "harmonic mean",
        "today's threshold": "the one that gives the old system this false rate now; new queries may have other scores",
        "flips": "decisions that were right with old queries and are wrong with new ones, and the reverse",
        "bands": ("bars and bands around lines: the middle 95 % of the draws; " if report["draws"] else "")
                 + "in the curves of re-embedding: the range of the random orders",
        "media": "photographs and videos that a template was made of",
        "free baselines": "hollow marks: linear maps of new features onto old ones, fitted on training images, nothing trained"}
    return "<h2>Words</h2><dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in meanings.items()) + "</dl>"


def versions(report: dict) -> str:
    rows = [[name, str(entry["dim"]), entry["network"] or "", entry.get("fingerprint", "")[:12], entry["file"] or "linear map"]
            for name, entry in report["versions"].items()]
    return (html_table(Table("Versions", ["name", "dimensions", "network", "fingerprint", "file"], rows))
            + f"<h2>Made by</h2><p><code>{escape(report['command'])}</code></p>")
