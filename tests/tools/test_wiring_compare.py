"""One upgrade whose figures all differ: M(new, old), M(old, new), M(old, old) and M(new, new), counted by hand.

The gallery holds four people, one axis of the feature space each: the old model stores person k at axis k, the new one
swaps the last two, the paragon shifts all by one.  A query points at one axis with a given cosine and for the rest at an
axis that nobody has, so its cosine to every gallery row can be read off the lists below.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluation.thresholds import advice
from tools.compare import compare
from tools.compare.answer import answer_table
from tools.compare.pictures import backfill as backfill_picture
from tools.compare.pictures import heat_map, scatter
from tools.compare.pictures import roc as roc_picture
from tools.compare.sentences import verdict_line
from tools.compare.tables import tables_of

LABELS = [30, 10, 40, 20]                                   # of the gallery rows
AXES = {"old": [0, 1, 2, 3], "new": [0, 1, 3, 2], "paragon": [1, 2, 3, 0]}      # of the gallery rows
LENGTHS = {"old": [4, 3, 1, 2], "new": [1, 2, 3, 4], "paragon": [1, 1, 1, 1]}   # of their features
PERSON = [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]                     # gallery row of the first ten probes' person
# Axis and cosine of these ten.  Right on the old gallery: axis == person; on the new one: AXES["new"][person].
POINTS_AT = {"old": [0, 1, 1, 1, 0, 0, 2, 2, 3, 2],         # 5 right on the old gallery (0 3 6 7 8), 3 on the new (0 3 9)
             "new": [0, 0, 0, 1, 1, 1, 2, 3, 2, 2],         # 7 on the old one (0 to 6), 9 on the new one (all but 6)
             "paragon": [1, 1, 1, 2, 2, 2, 3, 3, 0, 0]}     # all ten on its own
COSINE = {"old": [.90, .90, .90, .35, .90, .90, .80, .70, .55, .65],
          "new": [.95, .72, .65, .75, .45, .71, .90, .85, .80, .75],
          "paragon": [.30, .45, .90, .90, .90, .90, .90, .90, .90, .90]}
# Twenty non-mated probes, each compared in 1:1 with the gallery row that it points at: row j % 2.
NON_MATED = {"old": [.60, .50, .40], "new": [.20, .80, .70, .55], "paragon": [.60, .50, .40]}
LOW = [.01 * j for j in range(20)]                          # the cosines of the others


def features(model: str) -> tuple[np.ndarray, np.ndarray]:
    """(gallery [4, 8], probes [30, 8]) of one model."""
    cosines = COSINE[model] + NON_MATED[model] + LOW[len(NON_MATED[model]):]
    axes = POINTS_AT[model] + [AXES[model][j % 2] for j in range(20)]
    probes = np.zeros((30, 8))
    probes[np.arange(30), axes] = cosines
    probes[:, 7] = np.sqrt(1 - np.square(cosines))
    return np.eye(8)[AXES[model]] * np.array(LENGTHS[model])[:, None], probes


def write_models(folder: Path) -> None:
    """Labels, pairs, and for each model its features of gallery, probes and 40 training images."""
    np.save(folder / "gallery_label.npy", np.array(LABELS))
    np.save(folder / "probe_label.npy", np.array([LABELS[k] for k in PERSON] + list(range(100, 120))))
    rows = [(k, i, 1) for i, k in enumerate(PERSON)] + [(j % 2, 10 + j, 0) for j in range(20)]
    np.save(folder / "pairs.npy", np.array(rows))
    images = np.random.default_rng(0).standard_normal((40, 8))
    for model in AXES:
        (folder / model).mkdir()
        for side, array in zip(("gallery", "probe"), features(model), strict=True):
            np.save(folder / model / f"{side}.npy", array.astype(np.float32))
        train = images.copy()
        train[:, AXES[model]] = images[:, :4]               # what the old model has at axis k
        np.save(folder / model / "train.npy", train.astype(np.float32))


def run_compare(folder: Path, out: Path, *more) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "draw_pictures", lambda report, out: {})
        words = ["compare.py", "-d", folder, "--old", f"old={folder / 'old'}", "--new", f"new={folder / 'new'}", *more,
                 "--draws", 0, "--out", out]
        patch.setattr(sys, "argv", [*map(str, words)])
        compare.main()
    return json.loads((out / "compare.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    write_models(folder)
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("result")


@pytest.fixture(scope="module")
def report(folder, out) -> dict:
    return run_compare(folder, out, "--paragon", f"paragon={folder / 'paragon'}", "--old-features", folder / "old/train.npy",
                       "--new-features", f"paragon={folder / 'paragon/train.npy'}", "--backfill", 4, "--orders", 3)


def figures(report: dict, query: str, gallery: str) -> list[float]:
    """TAR at FAR 0.1, top-1 and TPIR at FPIR 0.1, in percent."""
    cell = report["matrix"][query][gallery]
    return [round(100 * cell[metric]["value"], 6) for metric in ("TAR@1e-1", "top-1", "TPIR@1e-1")]


# --- the matrix --------------------------------------------------------------------------------------------

def test_a_cell_is_named_by_its_query_first_and_its_gallery_second(report):
    """FAR 0.1 allows 2 of 20 pairs: accepted is what is above the third largest; FPIR 0.1: above the second largest.

    old queries:  thresholds 0.40 and 0.50; new queries: 0.55 and 0.70; the paragon's: 0.40 and 0.50.
    """
    assert figures(report, "old", "old") == [40, 50, 40]        # 0 6 7 8;  0 3 6 7 8;  0 6 7 8
    assert figures(report, "new", "old") == [60, 70, 50]        # 0 1 2 3 5 6;  0 to 6;  0 1 3 5 6
    assert figures(report, "old", "new") == [20, 30, 20]        # 0 9;  0 3 9;  0 9
    assert figures(report, "new", "new") == [80, 90, 70]        # all but 4 6;  all but 6;  0 1 3 5 7 8 9
    assert figures(report, "paragon", "paragon") == [90, 100, 80]
    assert figures(report, "paragon", "old") == [0, 0, 0]


def test_the_differences_and_the_gain_are_those_of_new_queries_on_the_old_gallery(report):
    upgrade, metrics = report["upgrades"]["new"], ["TAR@1e-1", "top-1", "TPIR@1e-1"]
    assert [round(upgrade["criterion"][m]["difference"], 6) for m in metrics] == [.2, .2, .1]
    assert [upgrade["gain"][m] for m in metrics] == pytest.approx([.2 / .5, .2 / .5, .1 / .4])
    assert upgrade["gain"]["top-5"] is None                     # four people: everybody is among the first five
    comp = 100 * np.mean([1 / (1 + np.exp(-g)) for g in (.4, .4, .25)])
    up = 100 * np.mean([1 / (1 + np.exp(-(alone - full) / full)) for alone, full in ((.8, .9), (.9, 1), (.7, .8))])
    assert [upgrade[k] for k in ("P_comp", "P_up", "P_1")] == pytest.approx([comp, up, 2 / (1 / comp + 1 / up)])


def test_a_sequence_asks_whether_the_newer_queries_beat_the_older_model_alone(folder, tmp_path):
    """(new, old): 70 over 50 % meets it; (paragon, old): 0 under 50; (paragon, new): 20 under 90."""
    report = run_compare(folder, tmp_path, f"paragon={folder / 'paragon'}", "--sequence", "--backfill", 0)
    assert report["AC"]["top-1"] == pytest.approx(1 / 3)
    assert figures(report, "paragon", "new")[1] == 20           # person 2 at axis 3, where the new gallery has it


def test_the_figures_shown_first_are_top_1_and_not_top_10(report):
    """Four people are too few for any figure to be reliable: the largest rate of each kind stands in, top-1 stays top-1."""
    assert report["reliable"] == [] and report["headline"] == ["TAR@1e-1", "top-1", "TPIR@1e-1"]


# --- today's threshold and flips ---------------------------------------------------------------------------

def test_todays_threshold_is_the_old_systems_and_the_one_to_set_is_the_new_queries(report):
    verification, = report["upgrades"]["new"]["threshold"]["1:1"]
    assert [verification[k] for k in ("threshold", "new threshold", "old", "old rate", "mixed", "mixed rate")] == pytest.approx(
        [.40, .55, .4, 2 / 20, .7, 3 / 20])                     # above 0.40: new queries 0 to 6, and three of 20
    search, = report["upgrades"]["new"]["threshold"]["1:N"]
    assert search["threshold"] == pytest.approx([.50]) and search["new threshold"] == pytest.approx([.70])
    assert [search[k] for k in ("old", "old rate", "mixed", "mixed rate")] == pytest.approx([.4, 1 / 20, .6, 3 / 20])
    assert (verification["errors"], verification["of"], search["errors"], search["of"]) == (3, 20, 3, 20)


EXPECTED_FLIPS = {"top-1": ([7, 8], [1, 2, 4, 5]),              # (right before and wrong now, the reverse)
                  "FPIR 1e-1, mated probes": ([7, 8], [1, 2, 3, 5]),
                  "FPIR 1e-1, non-mated probes": ([11, 12, 13], [10])}


def test_a_negative_flip_was_right_with_old_queries(report, out):
    flips = report["upgrades"]["new"]["flips"]
    rows = list(csv.DictReader(open(out / "flips_new.csv")))
    for kind, (lost, gained) in EXPECTED_FLIPS.items():
        assert (flips[kind]["negative"], flips[kind]["positive"]) == (len(lost), len(gained)), kind
        for flip, probes in (("negative", lost), ("positive", gained)):
            assert [int(r["probe"]) for r in rows if (r["judged by"], r["flip"]) == (kind, flip)] == probes, (kind, flip)
    assert [flips[k]["decisions"] for k in EXPECTED_FLIPS] == [10, 10, 20]
    assert flips["FAR 1e-1, genuine pairs"] == {"decisions": 10, "negative": 2, "positive": 5}   # 7 8; 1 to 5
    assert flips["FAR 1e-1, impostor pairs"] == {"decisions": 20, "negative": 2, "positive": 1}   # 12 13; 10
    lost = next(r for r in rows if r["judged by"] == "top-1" and r["probe"] == "7")
    assert (lost["subject"], lost["mated"], lost["old rank"]) == ("40", "True", "1")
    assert [float(lost[k]) for k in ("old mate", "new mate", "old other", "new other")] == [.7, 0, 0, .85]


# --- re-embedding ------------------------------------------------------------------------------------------

def test_the_rows_with_the_shortest_old_features_are_re_embedded_first(report):
    """Order 2, 3, 1, 0.  With row 2 alone new, rows 2 and 3 are both at axis 3: 7 is a tie, 6, 8 and 9 have no row."""
    curve = report["upgrades"]["new"]["backfill"]["lowest norm of the old feature first"]
    assert curve["share"] == [0, .25, .5, .75, 1] and curve["images"]["1:1"] == curve["images"]["1:N"] == [0, 1, 2, 3, 4]
    assert curve["values"]["top-1"][0] == pytest.approx([.7, .6, .9, .9, .9])
    assert curve["values"]["TAR@1e-1"][0] == pytest.approx([.6, .6, .8, .8, .8])    # 7 is accepted as soon as row 2 is new
    top = curve["top-1"]
    assert top["auc"] == pytest.approx(.25 * (.35 + .6 + .9 + .9 + .45))
    assert curve["TAR@1e-1"]["auc"] == pytest.approx(.25 * (.3 + .6 + .8 + .8 + .4))
    assert top["share"] == pytest.approx(.25 + .25 * (.82 - .6) / .3)               # 80 % of the way from 0.5 to 0.9
    assert top["images"] == 2                                                       # 1.73
    assert len(report["upgrades"]["new"]["backfill"]["random"]["values"]["top-1"]) == 3


def test_the_part_of_the_gain_is_the_one_asked_for(folder, tmp_path):
    report = run_compare(folder, tmp_path, "--backfill", 2, "--part", .9)
    curve = report["upgrades"]["new"]["backfill"]["lowest norm of the old feature first"]
    assert curve["values"]["top-1"][0] == pytest.approx([.7, .9, .9]) and report["part"] == .9
    assert curve["top-1"]["share"] == pytest.approx(.5 * (.86 - .7) / .2)           # 90 % of the way from 0.5 to 0.9


# --- maps --------------------------------------------------------------------------------------------------

def test_a_map_takes_the_named_models_queries_to_the_old_gallery(report):
    """The paragon's features are the old model's with the axes shifted by one: its mapped queries do as well as alone."""
    for kind in ("Procrustes", "ridge"):
        assert figures(report, f"paragon+{kind}", "old") == [90, 100, 80], kind
        assert figures(report, f"paragon+{kind}", f"paragon+{kind}") == [90, 100, 80], kind
        assert report["upgrades"][f"paragon+{kind}"]["free"]
        assert set(report["matrix"][f"paragon+{kind}"]) == {"old", f"paragon+{kind}"}
    errors = report["map errors"]                               # the rotation is exact, ridge is a little too short
    assert errors["paragon+Procrustes"] < 1e-13 < errors["paragon+ridge"] < 1e-11
    assert not report["upgrades"]["new"]["free"] and not report["upgrades"]["paragon"]["free"]


def test_a_map_forward_takes_the_old_entries_to_the_named_models_queries(folder, tmp_path):
    """The new queries search the old rows as the paragon stores them; re-embedded rows are the paragon's own."""
    features = "--old-features", folder / "old/train.npy", "--new-features", f"paragon={folder / 'paragon/train.npy'}"
    report = run_compare(folder, tmp_path, "--paragon", f"paragon={folder / 'paragon'}", *features, "--backfill", 0, "--forward",
                         "--maps", "ridge")
    assert report["free"] == ["paragon+ridge", "paragon+ridge-forward"]
    for gallery in ("old", "paragon+ridge-forward"):
        assert figures(report, "paragon+ridge-forward", gallery) == [90, 100, 80]


# --- what is shown -----------------------------------------------------------------------------------------

def row(report: dict, title: str, *first: str) -> list[str]:
    """The row of the table whose title begins so, whose first cells are these."""
    table = next(table for table in tables_of(report) if table.title.startswith(title))
    return next(cells for cells in table.rows if cells[:len(first)] == list(first))


def test_tables_show_each_figure_in_its_column(report):
    assert row(report, "top-1, in %", "old") == ["old", "", "50.00", "", "", "50.00"]
    assert row(report, "top-1, in %", "new")[2:] == ["70.00", "+20.00", "40", "90.00"]
    assert row(report, "Every figure", "new / old")[1:] == ["60.00", "70.00", "100.00", "100.00", "50.00"]
    assert row(report, "1:1: new queries", "new")[1:] == [
        "1e-1", "0.550", "0.400", "60.00", "70.00", "40.00", "15", "10", "3 of 20"]
    assert row(report, "1:N: new queries", "new")[1:] == [
        "1e-1", "0.700", "0.500", "50.00", "60.00", "40.00", "15", "5", "3 of 20"]
    assert row(report, "Flips", "new", "top-1")[2:] == ["20.00", "2", "4", "10"]
    upgrade = report["upgrades"]["new"]
    assert row(report, "All", "new")[7:] == [f"{upgrade[key]:.1f}" for key in ("P_comp", "P_up", "P_1")]
    order = "lowest norm of the old feature first"
    shown = row(report, "Re-embedding the gallery step by step: top-1", "new", order)
    assert shown[2:] == ["2", "43", "70.00", "60.00", "80.00", "n/a", "n/a", "90.00"]       # too few rows for score maps
    queries, = (table for table in tables_of(report) if table.title.startswith("TAR@1e-1 of every query"))
    assert queries.columns[:4] == ["query", "old", "new", "paragon"]
    assert [cells[:3] for cells in queries.rows[:2]] == [["old", "40.0", "20.0"], ["new", "60.0", "80.0"]]


def test_the_sentence_names_both_thresholds(report):
    """Three errors of 20 at today's threshold, two are allowed: no evidence of more. A figure that does not count gives no
    advice.
    """
    undecided = "new: undecided. No figure rests on enough errors and people to count."
    assert verdict_line("new", report) == undecided and report["upgrades"]["new"]["advice"] == []
    changed = json.loads(json.dumps(report))
    rows = changed["upgrades"]["new"]["threshold"]
    plan, = changed["upgrades"]["new"]["advice"] = advice(rows, [], ["TAR@1e-1"], .01)
    assert verdict_line("new", changed) == f"{undecided} Keep today's threshold, 0.400."
    plan |= {"action": "set", "entries": .7}
    assert verdict_line("new", changed).endswith("Set the threshold to 0.550 (today 0.400); re-embedded entries need 0.700.")


def test_the_first_table_by_hand(report):
    """TAR at FAR 0.1: new threshold, today's with its FAR, images of the cheapest order, alone."""
    table = answer_table(report)
    assert table.columns == ["version", "answer", "on the gallery of old, new threshold", "the same at today's threshold",
                             "images to re-embed for 80 % of the gain", "alone"]
    assert table.rows[0] == ["old", "", "40.00", "", "", "40.00"]
    assert table.rows[1] == ["new", "undecided", "60.00", "70.00 (FAR 15 %)", "n/a", "80.00"]         # the figure does not count
    counts = json.loads(json.dumps(report | {"reliable": ["TAR@1e-1"]}))
    assert answer_table(counts).rows[1][4] == "no gain shown"
    counts["upgrades"]["new"]["alone"] = {"overall": "better", "criterion": {"TAR@1e-1": {"verdict": "better"}}}
    assert answer_table(counts).rows[1][4] == "2 (of 4)"
    curves = report["upgrades"]["new"]["backfill"]
    assert sorted(curve["TAR@1e-1"]["images"] for curve in curves.values())[0] == 2 < max(
        curve["TAR@1e-1"]["images"] for curve in curves.values())
    other = json.loads(json.dumps(report))
    other["matrix"]["far"] = {"far": other["matrix"]["new"]["new"]}         # a version of other dimensions has its own figures
    other["versions"]["far"] = other["versions"]["new"] | {"dim": 9}
    assert answer_table(other).rows[-1] == ["far", "needs a map", "", "", "", "80.00"]
    assert row(other, "top-1, in %", "far") == ["far", "needs a map", "9 dimensions", "", "", "90.00"]


def test_pictures_have_the_gallery_across_and_the_query_down(report):
    table = heat_map(report, "top-1").axes[0].images[0].get_array()
    assert table[:2, :2].round(6).tolist() == [[50, 30], [70, 90]]      # rows: queries of old and new
    axes = scatter(report, "top-1").axes[0]
    points = {container.get_label(): container.lines[0].get_xydata()[0].round(6).tolist() for container in axes.containers}
    assert points["new"] == [90, 70]                                    # alone, on the old gallery
    old, paragon = (next(line for line in axes.lines if line.get_label() == label)
                    for label in ("old alone", "paragon alone"))
    assert old.get_ydata() == [50, 50] and paragon.get_xdata() == [100, 100]
    curves = {line.get_label(): line.get_ydata() for line in roc_picture(report, "new").axes[0].lines}
    assert {name: round(tar[report["curves"]["old / old"]["far"].index(.1)]) for name, tar in curves.items()} == {
        "old / old": 40, "new / old": 60, "new / new": 80, "paragon / paragon": 90}
    lines = {line.get_label(): line for line in backfill_picture(report, "new", "top-1").axes[0].lines}
    assert lines["lowest norm of the old feature first"].get_ydata().round(6).tolist() == [70, 60, 90, 90, 90]
