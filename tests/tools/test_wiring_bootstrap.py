"""The bootstrap of a comparison: people are drawn, not rows; both cells of a difference see the same samples.

Expected figures are counted by hand or written out pair by pair from the weights of each sample.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_compare_judgement import cell, plain

from tools.compare import compare
from tools.compare.bootstrap import draw_weights, interval
from tools.compare.cells import Measure
from tools.compare.evaluation import read_evaluation
from tools.compare.judgement import compare_cells
from tools.compare.tables import tables_of
from tools.ijbc_eval.protocol import Pairs

# --- people move together ----------------------------------------------------------------------------------

def test_all_probes_of_a_person_are_taken_or_left_together():
    """Two people with 50 probes each, one always found and one never: a sample has 0, 50 or 100 % right, 1/4 1/2 1/4 of the time.

    Drawing rows instead would give about 40 to 60 %.
    """
    gallery, queries = np.eye(3, dtype=np.float32)[:2], np.eye(3, dtype=np.float32)[[0] * 50 + [2] * 50]
    found = Measure(plain(None, [7, 5], [7] * 50 + [5] * 50), 2000, 0, "cpu")(gallery, queries, resample=True)
    values, counts = np.unique(found.draws["top-1"], return_counts=True)
    assert found.values["top-1"] == .5 and values.tolist() == [0, .5, 1]
    assert counts / 2000 == pytest.approx([.25, .5, .25], abs=.04)      # four standard errors
    assert found.interval("top-1") == (0, 1)


def test_one_person_has_one_weight_on_both_sides_of_a_pair():
    """Rows of gallery and probes differ, 70 is in pairs but no probe, 90 in the gallery only: each sample written out."""
    draw = np.random.default_rng(1)
    gallery_labels, probe_labels = [50, 20, 90, 50, 10, 70, 20, 30], [20, 30, 50, 20, 10, 50, 30, 10, 20, 50, 40, 40]
    table = [(g, p, a == b) for g, a in enumerate(gallery_labels) for p, b in enumerate(probe_labels) if a != 90]
    pairs = Pairs(*(np.array(column) for column in zip(*table, strict=True)))
    gallery, query = (draw.standard_normal((n, 4)).astype(np.float32) for n in (8, 12))
    measure = Measure(plain(pairs, gallery_labels, probe_labels), 40, 3, "cpu")
    found = measure(gallery, query, resample=True)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (gallery.astype(float), query.astype(float))]
    people = [10, 20, 30, 40, 50, 70]                           # those of probes and pairs, in the order of the weights
    assert measure.weights.shape == (40, 6)
    for weights, tar in zip(measure.weights, found.draws["TAR@1e-1"], strict=True):
        weight = dict(zip(people, weights.tolist(), strict=True))
        same, different = [], []
        for g, p, mated in table:
            a, b, score = gallery_labels[g], probe_labels[p], float(unit[0][g] @ unit[1][p])
            (same if mated else different).extend([score] * (weight[a] if mated else weight[a] * weight[b]))
        if not same or not different:
            assert np.isnan(tar)
            continue
        different.sort(reverse=True)
        threshold = different[int(len(different) * .1 + 1e-9)]
        assert tar == pytest.approx(np.mean(np.array(same) > threshold))


def test_a_sample_takes_as_many_people_as_there_are_and_each_as_likely_as_the_others():
    weights = draw_weights(6, 3000, seed=0)
    assert (weights.sum(1) == 6).all() and weights.mean(0) == pytest.approx(np.ones(6), abs=.08)
    assert weights.var(0) == pytest.approx(np.full(6, 5 / 6), rel=.15)  # multinomial: n p (1 - p), not one each
    assert (draw_weights(6, 50, seed=0) == weights[:50]).all() and (draw_weights(6, 50, seed=1) != weights[:50]).any()


def test_an_interval_leaves_out_two_and_a_half_percent_on_each_side():
    assert interval(np.arange(1001.0)) == pytest.approx((25, 975))
    assert interval(np.arange(1001.0), figures=10) == pytest.approx((2.5, 997.5))


def test_the_band_of_a_curve_is_the_interval_of_the_figure_at_the_same_rate():
    draw, owner = np.random.default_rng(2), np.arange(12)
    probes = np.repeat(owner, 3)
    enrol, verify = (side.ravel() for side in np.meshgrid(owner, np.arange(36)))
    evaluation = plain(Pairs(enrol, verify, enrol == probes[verify]), owner.tolist(), probes.tolist())
    centres = draw.standard_normal((12, 5))
    found = Measure(evaluation, 60, 0, "cpu")(centres.astype(np.float32), (centres[probes] + .8 * draw.standard_normal(
        (36, 5))).astype(np.float32), resample=True)
    for far, name in ((.01, "TAR@1e-2"), (.1, "TAR@1e-1")):
        at, = np.flatnonzero(np.isclose(found.curve["far"], far))
        low, high = found.curve["low"][at], found.curve["high"][at]
        assert (low, high) == pytest.approx(found.interval(name)) and low < high
        assert found.curve["tar"][at] == found.values[name]


# --- verdicts ----------------------------------------------------------------------------------------------

def write_people(folder: Path, people: int, strangers: int, pairs: int = 0) -> Path:
    """``people`` with one gallery row and three probes each; the model "good" finds all of them, "bad" and "half" fewer.

    bad: every probe points to where nobody is.  half: every other person is found.
    """
    folder.mkdir()
    labels, owner = np.arange(people), np.repeat(np.arange(people), 3)
    np.save(folder / "gallery_label.npy", labels)
    np.save(folder / "probe_label.npy", np.r_[owner, 1000 + np.arange(strangers)])
    if pairs:
        rows = [(k, 3 * k + i, 1) for k in range(people) for i in range(2)]
        np.save(folder / "pairs.npy", np.array(rows + [(i % people, 3 * people + i % strangers, 0) for i in range(pairs)]))
    axes = np.eye(people + 1, dtype=np.float32)                 # the last one is nobody's
    for name, right in (("good", owner >= 0), ("bad", owner < 0), ("half", owner % 2 == 0)):
        (folder / name).mkdir()
        np.save(folder / name / "gallery.npy", axes[:people])
        np.save(folder / name / "probe.npy", axes[np.r_[np.where(right, owner, people), np.full(strangers, people)]])
    return folder


def compare_people(folder: Path, old: str, new: str, *more) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "draw_figures", lambda report, out: {})
        words = ["compare.py", "-d", folder, "--old", f"old={folder / old}", "--new", f"new={folder / new}", "--backfill", 0,
                 "--draws", 60, "--out", folder / "out", *more]
        patch.setattr(sys, "argv", [*map(str, words)])
        compare.main()
    return json.loads((folder / "out/compare.json").read_text())


@pytest.mark.parametrize("people, old, new, verdict, overall", [
    (10, "bad", "good", "better", "compatible"), (10, "good", "bad", "worse", "not compatible"),
    (10, "bad", "bad", "not distinguishable", "not distinguishable from the old model"),
    (9, "bad", "good", "not distinguishable", "not distinguishable from the old model")])
def test_a_verdict_needs_ten_people_and_follows_the_sign_of_new_minus_old(tmp_path, people, old, new, verdict, overall):
    report = compare_people(write_people(tmp_path / "data", people, strangers=20), old, new)
    upgrade = report["upgrades"]["new"]
    assert (upgrade["criterion"]["top-1"]["verdict"], upgrade["overall"]) == (verdict, overall)
    assert report["reliable"] == (["top-1", "top-5", "top-10"] if people >= 10 else [])


def test_the_same_model_twice_has_a_difference_of_exactly_zero_in_every_sample(tmp_path):
    """Each cell has a wide interval; only the same samples on both sides make their difference vanish."""
    folder = write_people(tmp_path / "data", 12, strangers=20)
    report = compare_people(folder, "half", "half")
    entry = report["upgrades"]["new"]["criterion"]["top-1"]
    low, high = report["matrix"]["new"]["old"]["top-1"]["interval"]
    assert high - low > .3 and entry["interval"] == [0, 0] and entry["verdict"] == "not distinguishable"
    again, other = compare_people(folder, "half", "half"), compare_people(folder, "half", "half", "--seed", 1)
    assert again["matrix"] == report["matrix"] != other["matrix"]


def test_a_verdict_on_all_figures_counts_those_with_thirty_errors(tmp_path):
    """TPIR at FPIR 0.1 rests on 30 of 300 non-mated probes, on 29.9 of 299; TAR at FAR 0.1 on 30 of 300 pairs."""
    for strangers, pairs, counted, first in (
            (300, 0, ["TPIR@1e-1"], ["TPIR@1e-1"]), (3000, 0, ["TPIR@1e-2", "TPIR@1e-1"], ["TPIR@1e-2"]),
            (299, 300, ["TAR@1e-1"], ["TAR@1e-1", "TPIR@1e-1"]), (299, 299, [], ["TAR@1e-1", "TPIR@1e-1"])):
        folder = write_people(tmp_path / f"{strangers}_{pairs}", 10, strangers, pairs)
        report = compare_people(folder, "bad", "good")
        assert [name for name in report["reliable"] if "@" in name] == counted
        assert [name for name in report["headline"] if "@" in name] == first        # the smallest reliable rate, or the largest
        overall = {name: entry["overall"] for name, entry in report["upgrades"]["new"]["criterion"].items()}
        assert {name for name, word in overall.items() if word is not None} == set(report["reliable"])
        assert report["upgrades"]["new"]["criterion"]["TPIR@1e-1"]["verdict"] == "better"       # alone it may have one
        summary = next(table for table in tables_of(report) if table.title.startswith("All"))
        higher = str(len(overall) - 1)                                                  # all but top-10, which is 1 as before
        assert summary.rows[0][:6] == ["new", "compatible", higher, higher, "1", "0"]


def test_intervals_are_widened_by_the_number_of_figures_that_count():
    """Above 0 in 99 % of the samples: enough alone (97.5 %) and for two figures (98.75 %), not for four (99.375 %)."""
    drawn = {"m": np.r_[np.full(10, -.1), np.full(990, .1)]}
    old = cell({"m": .5}, {"m": np.zeros(1000)})
    for figures, word in ((1, "better"), (2, "better"), (4, "not distinguishable")):
        found = compare_cells(cell({"m": .6}, drawn), old, ["m", *map(str, range(figures - 1))])
        assert (found["m"]["verdict"], found["m"]["overall"]) == ("better", word), figures


def test_people_behind_a_figure_are_counted_not_rows(tmp_path):
    evaluation = read_evaluation(write_people(tmp_path / "data", 9, 20, 40), "IJBC")
    assert evaluation.subjects_behind() == {"TAR": 9, "top": 9, "TPIR": 9}
    assert evaluation.negatives() == {"1:1": 40, "1:N": 20}
