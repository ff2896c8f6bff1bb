"""The page's first answer from hand-made results, and what every page must have."""

import base64
import html
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from toy_comparison import run_compare, write_features

from evaluation.maps import KINDS
from tools.compare.answer import first_answer
from tools.compare.page import MARKS
from tools.compare.pictures import DPI, TEXT
from tools.compare.texts import main_metric
from tools.compare.words import glossary

METRIC = "TAR@1e-4"


def entry(points: float, low: float, high: float, verdict: str | None, **more) -> dict:
    """A figure's difference in points, with its interval."""
    return {"difference": points / 100, "interval": [low / 100, high / 100], "verdict": verdict, "needed": None} | more


def upgrade(overall: str, change: dict, alone: dict | None = None, images: int | None = None, top: str = "safe") -> dict:
    """A candidate that is judged by METRIC and top-1.  images: to re-embed in the cheapest of two orders."""
    alone = alone or entry(-1, -3, 1, "undecided")
    curves = {"random": {"values": {METRIC: []}, METRIC: {"images": images and images + 5}},
              "best": {"values": {METRIC: []}, METRIC: {"images": images}}}
    return {"overall": overall, "decided by": METRIC, "criterion": {METRIC: change, "top-1": entry(0, -.5, .5, top)},
            "alone": {"overall": alone["verdict"], "criterion": {METRIC: alone}}, "backfill": curves,
            "advice": [{"metric": METRIC, "action": "set", "threshold": .3, "new threshold": .25, "entries": None}]}


def report(figures: dict[str, tuple[float, float]], **upgrades: dict) -> dict:
    """figures: {candidate: METRIC on the old gallery and alone, in %}; the old model has 50."""
    def cell(percent):
        return {metric: {"value": percent / 100, "interval": None, "each": [percent / 100]} for metric in (METRIC, "top-1")}
    matrix = {"old": {"old": cell(50)}} | {name: {"old": cell(mixed), name: cell(own)} for name, (mixed, own) in figures.items()}
    return {"old": "old", "upgrades": upgrades, "matrix": matrix, "headline": [METRIC, "top-1"], "reliable": [METRIC, "top-1"],
            "weak": [], "guessing": {METRIC: 1e-4, "top-1": .005}, "margin": .01, "part": .8,
            "evaluation": {"gallery images": {"1:1": 4000, "1:N": 900}}}


BETTER, WORSE = entry(4, 2, 6, "better"), entry(-9, -14, -4.5, "worse")
SAFE = entry(0, -.5, .5, "safe")
OPEN = entry(-.5, -3, 2, "undecided", needed={"people": 1200, "trainings": 3})


def test_yes_names_the_best_version_the_threshold_and_the_cost():
    data = report({"A": (54, 70), "B": (53, 60), "C": (40, 60)}, A=upgrade("better", BETTER, entry(20, 18, 22, "better"), 1500),
                  B=upgrade("safe", SAFE), C=upgrade("worse", WORSE))
    assert first_answer(data) == {"word": "yes", "version": "A", "text": (
        "A can replace old without re-embedding the gallery: it is better in 1 of the 2 figures that count (TAR@1e-4 goes from "
        "50.00 to 54.00 %) and safe in the others. Set the threshold to 0.250 (today 0.300). Re-embedding 1,500 of the gallery's "
        "4,000 images brings 80 % of the gain in TAR@1e-4. So can B.")}
    data["upgrades"]["A"]["criterion"]["top-1"]["verdict"] = "better"
    assert "it is better in all figures that count (TAR@1e-4 goes" in first_answer(data)["text"]
    best = data["upgrades"]["A"]["backfill"]["best"]
    best["mapped"] = {METRIC: {"images": 700}}                          # of the way that the gallery's search goes
    assert "Re-embedding 700 of the gallery's 4,000 images brings 80 %" in first_answer(data)["text"]
    best["mapped"][METRIC]["images"] = 0
    assert "More than 80 % of the gain in TAR@1e-4 is there before any image" in first_answer(data)["text"]


def test_safe_is_a_yes_without_a_gain():
    data = report({"A": (50, 40), "B": (51, 50)}, A=upgrade("safe", SAFE), B=upgrade("safe", SAFE, WORSE))
    found = first_answer(data)
    assert (found["word"], found["version"]) == ("yes", "B")            # both are safe; B has the higher figure
    assert "but without a gain that can be shown: no figure that counts loses more than the accepted 1 point." in found["text"]
    assert "Do not re-embed the gallery with it: alone it is worse." in found["text"] and found["text"].endswith("So can A.")
    data["matrix"]["A"]["old"][METRIC]["value"] = .6
    assert "Re-embedding the gallery is not shown to add anything." in first_answer(data)["text"]


def test_perhaps_says_what_is_open_and_what_would_decide():
    found = first_answer(report({"A": (50, 70)}, A=upgrade("better in some, undecided in others", OPEN, top="better")))
    assert found == {"word": "perhaps", "version": "A", "text": (
        "A may be able to replace old without re-embedding the gallery: it is better in 1 of the 2 figures that count and worse "
        "in none, but TAR@1e-4 is open (-0.50 points (-3.0 to 2.0)). It would take 1,200 more people or 3 more trainings to "
        "decide.")}


def test_undecided_has_no_evidence_either_way():
    found = first_answer(report({"A": (49.5, 70), "B": (41, 70)}, B=upgrade("worse", WORSE), A=upgrade("undecided", OPEN)))
    assert found == {"word": "undecided", "version": "A", "text": (
        "This data cannot tell whether A can replace old: TAR@1e-4 changes by -0.50 points (-3.0 to 2.0). It would take 1,200 "
        "more people or 3 more trainings to decide. Re-embedding the whole gallery is not shown to help, either.")}


def test_no_names_the_nearest_version_and_the_way_that_is_left():
    figures = {"A": (41, 80), "B": (30, 75), "C": (45, 90)}         # A alone is not shown to be better, whatever its figure
    data = report(figures, A=upgrade("worse", WORSE), B=upgrade("worse", WORSE, entry(25, 20, 30, "better"), 3000),
                  C=upgrade("no verdict", BETTER, BETTER))
    assert first_answer(data) == {"word": "no", "version": "A", "text": (
        "None of the versions can replace old without re-embedding the gallery; the nearest is A: TAR@1e-4 changes by -9.00 "
        "points (-14.0 to -4.5). Re-embedding the whole gallery with B takes TAR@1e-4 from 50.00 to 75.00 %. Re-embedding 3,000 "
        "of the gallery's 4,000 images brings 80 % of the gain in TAR@1e-4.")}
    data["upgrades"] |= {"D": upgrade("worse", WORSE, entry(24.5, 20, 29, "better"), 2000)}
    for alone, best in ((.745, "D takes TAR@1e-4 from 50.00 to 74.50"), (.735, "B takes TAR@1e-4 from 50.00 to 75.00")):
        data["matrix"]["D"] = {gallery: {METRIC: {"value": of, "interval": None}} for gallery, of in (("old", .2), ("D", alone))}
        assert f"Re-embedding the whole gallery with {best} %" in first_answer(data)["text"]    # within a point: the cheaper one
    both = report({"A": (45, 55), "B": (41, 55)}, A=upgrade("worse", WORSE, top="worse"), B=upgrade("worse", WORSE))
    assert first_answer(both)["version"] == "B"                     # worse in fewer figures, whatever the first one is
    single = first_answer(report(figures, A=upgrade("better in some, worse in others", WORSE)))
    assert (single["word"], single["text"][:24]) == ("no", "A cannot replace old wit")


def test_no_answer_if_inputs_models_or_people_do_not_allow_one():
    data = report({"A": (41, 55)}, A=upgrade("no verdict", WORSE))
    assert first_answer(data)["word"] == "no answer" and "A warning says that the inputs" in first_answer(data)["text"]
    data["weak"] = ["A"]
    assert "(guessing: 0.5 %): either rows and labels do not belong together" in first_answer(data)["text"]
    data = report({"A": (.3, 1)}, A=upgrade("worse", WORSE))
    data["weak"] = ["A"]                            # every version that could be chosen
    assert first_answer(data) == {"word": "no answer", "version": None, "text": (
        "These models are too weak to decide anything: alone, A reaches 1.00 % TAR@1e-4 (guessing: 0.01 %) and 1.00 % top-1 "
        "(guessing: 0.5 %). Train longer, or on more people; then compare again.")}
    data = report({"A": (60, 70), "B": (60, 70)}, A=upgrade("better", BETTER), B=upgrade("better", BETTER))
    data["weak"] = ["B"]
    assert first_answer(data)["word"] == "yes"
    data["weak"] = ["old"]
    assert "alone, old reaches 50.00 % TAR@1e-4" in first_answer(data)["text"]
    data["reliable"] = []
    assert "a figure counts if it rests on 30 errors and 10 people, and here none does" in first_answer(data)["text"]


@pytest.mark.parametrize("headline, reliable, main", [
    (["TAR@1e-4", "top-1"], ["TAR@1e-4", "top-1"], "TAR@1e-4"), (["TAR@1e-4", "top-1"], ["top-1"], "top-1"),
    (["top-1", "TPIR@1e-1"], ["top-1", "TPIR@1e-1"], "TPIR@1e-1"), (["top-1", "TPIR@1e-1"], [], "TPIR@1e-1")])
def test_the_main_figure_counts_and_has_a_threshold(headline, reliable, main):
    assert main_metric({"headline": headline, "reliable": reliable}) == main


# --- pages that the command wrote --------------------------------------------------------------------------

@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Path:
    """A comparison with everything that has a word of its own; three trainings, and a version of other dimensions."""
    folder = tmp_path_factory.mktemp("page")
    write_features(folder)
    trainings = [folder / "new"]
    for seed in (1, 2):
        (folder / f"new{seed}").mkdir()
        for side in ("gallery", "probe"):
            rows = np.load(folder / f"new/{side}.npy")
            rows += .2 * np.random.default_rng(seed).standard_normal(rows.shape).astype(np.float32)
            np.save(folder / f"new{seed}/{side}.npy", rows)
        trainings.append(folder / f"new{seed}")
    with pytest.MonkeyPatch.context() as patch:
        run_compare(patch, "-d", folder, "--old", f"old={folder / 'old'}", "--new", f"<b>x={','.join(map(str, trainings))}",
                    f"six={folder / 'six'}", "--paragon", f"turned={folder / 'turned'}", "--old-features",
                    folder / "old/train.npy", "--new-features", f"turned={folder / 'turned/train.npy'}", "--sequence",
                    "--backfill", 2, "--orders", 2, "--draws", 40, "--title", "<b>x</b> & y", "--out", folder / "out")
    return folder / "out"


def visible(page: str) -> str:
    """The page's text without the command, which can hold anything."""
    page = re.sub(r"<style>.*?</style>|<code>.*?</code>|<[^>]*>", " ", page, flags=re.DOTALL)
    return html.unescape(page)


def test_page_text_and_json_have_the_same_words(result):
    data, text = json.loads((result / "compare.json").read_text()), (result / "compare.txt").read_text()
    page = (result / "index.html").read_text()
    words = {name: entry["overall"] for name, entry in data["upgrades"].items()}
    rows = re.findall(r'<td class="name"><b>(.*?)</b>(?: <span class="chip (\w+)">(.*?)</span>)?', page)
    shown = {html.unescape(name): (mark, word) for name, mark, word in rows}
    judged = {name: (MARKS[word], word) for name, word in words.items()}
    assert shown == {"old": ("", ""), "six": ("grey", "needs a map")} | judged
    lines = text.splitlines()
    assert all(any(line.startswith(f"{name}: {word}.") for line in lines) for name, word in words.items())
    assert lines[0] == f"ANSWER: {data['answer']['word']}. {data['answer']['text']}"
    assert f"{data['answer']['word'].capitalize()}. {data['answer']['text']}" in " ".join(visible(page).split())
    assert f'<p class="answer {MARKS[data["answer"]["word"]]}">' in page


def test_names_and_title_are_text_everywhere(result):
    page = (result / "index.html").read_text()
    assert "<b>x" not in page and "<h1>&lt;b&gt;x&lt;/b&gt; &amp; y</h1>" in page and page.count("&lt;b&gt;x") > 20


def test_every_abbreviation_on_the_page_is_in_its_glossary(result):
    page = (result / "index.html").read_text()
    terms = re.findall(r"<dt>(.*?)</dt>", page)
    known = set(re.findall(r"[\w:-]+", html.unescape(" ".join(terms))))
    text = visible(page)
    used = set(re.findall(r"\b(?:[A-Z][a-z]*){2,}\b|\b[A-Z]_\w+|\b1:[1N]\b", text)) | {kind for kind in KINDS if kind in text}
    used |= {"top-k"} if re.search(r"top-\d", text) else set()
    assert {"TAR", "FAR", "TPIR", "FPIR", "ROC", "AC", "P_comp", "P_1", "1:N", "top-k", "Procrustes", "ridge"} <= used
    assert used - {"NAME", "FILE", "MAP", "MLP"} <= known, used - known
    assert {"margin", "paragon", "template", "update gain", "points"} <= set(terms)


def test_the_glossary_is_in_order_and_says_what_the_report_has(result):
    data = json.loads((result / "compare.json").read_text()) | {"margin": .02, "part": .75}
    terms = [term for term, _ in glossary(data)]
    assert terms == sorted(terms, key=str.lower) and len(set(terms)) == len(terms) > 40
    meaning = dict(glossary(data))
    assert "accepted: 2 points" in meaning["margin"] and "until 75 % of the gain" in meaning["images to re-embed"]
    assert not {"bootstrap", "interval"} & dict(glossary(data | {"draws": 0})).keys()
    assert not any("{" in text for text in meaning.values())


def test_details_are_folded_and_the_answer_is_not(result):
    page = (result / "index.html").read_text()
    start = page.index("<details>")
    for first in ('<p class="answer', '<table class="rows">', "<figure>"):
        assert page.index(first) < start
    assert page[:start].count("<img ") == 1 and "<details open" not in page
    parts = re.findall(r"<summary>(.*?)</summary>", page)
    assert parts[0] == "Figures of each version" and parts[-2:] == ["Data, versions and command", "Words"]
    places = [page.index(text) for text in ("Thresholds and flips</summary>", "Flips: decisions", "Re-embedding the gallery</s")]
    assert places == sorted(places)


def test_text_in_pictures_is_at_least_eleven_pixels_high_on_a_phone(result):
    """A phone of 390 pixels has 358 for the page; a picture is as wide, or as wide as its style asks for if that is more."""
    page = (result / "index.html").read_text()
    pictures = re.findall(r'style="min-width: (\d+)px" src="data:image/png;base64,([^"]*)"', page)
    widths = {struct.unpack(">I", base64.b64decode(content[:32])[16:20])[0]: int(least) for least, content in pictures}
    assert len(pictures) == page.count("<img ") > 5
    for pixels, least in widths.items():
        assert TEXT / 72 * DPI * max(358, least) / pixels >= 11
    assert sum(int(least) <= 358 for least, _ in pictures) >= len(pictures) - 1      # only the matrix may need scrolling
