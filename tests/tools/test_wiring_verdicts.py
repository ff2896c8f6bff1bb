"""Verdicts of the command compare: which figures count, and what the bootstrap samples of a difference say."""

import json
import sys
from pathlib import Path

import pytest
from toy_comparison import write_people

from tools.compare import compare
from tools.compare.tables import tables_of


def compare_people(folder: Path, old: str, new: str, *more) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "draw_pictures", lambda report, out: {})
        words = ["compare.py", "-d", folder, "--old", f"old={folder / old}", "--new", f"new={folder / new}", "--backfill", 0,
                 "--draws", 60, "--out", folder / "out", *more]
        patch.setattr(sys, "argv", [*map(str, words)])
        compare.main()
    return json.loads((folder / "out/compare.json").read_text())


@pytest.mark.parametrize("people, old, new, verdict, overall", [
    (10, "bad", "good", "better", "compatible"), (10, "good", "bad", "worse", "not compatible"),
    (10, "bad", "bad", "undecided", "undecided"),
    (9, "bad", "good", "undecided", "undecided")])
def test_a_verdict_needs_ten_people_and_follows_the_sign_of_new_minus_old(tmp_path, people, old, new, verdict, overall):
    report = compare_people(write_people(tmp_path / "data", people, nonmated=20), old, new)
    upgrade = report["upgrades"]["new"]
    assert (upgrade["criterion"]["top-1"]["verdict"], upgrade["overall"]) == (verdict, overall)
    assert report["reliable"] == (["top-1", "top-5", "top-10"] if people >= 10 else [])


def test_the_same_model_twice_has_a_difference_of_exactly_zero_in_every_sample(tmp_path):
    """Each cell has a wide interval; only the same samples on both sides make their difference vanish."""
    folder = write_people(tmp_path / "data", 12, nonmated=20)
    report = compare_people(folder, "half", "half")
    entry = report["upgrades"]["new"]["criterion"]["top-1"]
    low, high = report["matrix"]["new"]["old"]["top-1"]["interval"]
    assert high - low > .3 and entry["interval"] == [0, 0] and entry["verdict"] == "undecided"
    again, other = compare_people(folder, "half", "half"), compare_people(folder, "half", "half", "--seed", 1)
    assert again["matrix"] == report["matrix"] != other["matrix"]


def test_a_verdict_on_all_figures_counts_those_with_thirty_errors(tmp_path):
    """TPIR at FPIR 0.1 rests on 30 of 300 non-mated probes, on 29.9 of 299; TAR at FAR 0.1 on 30 of 300 pairs."""
    for nonmated, pairs, counted, first in (
            (300, 0, ["TPIR@1e-1"], ["TPIR@1e-1"]), (3000, 0, ["TPIR@1e-2", "TPIR@1e-1"], ["TPIR@1e-2"]),
            (299, 300, ["TAR@1e-1"], ["TAR@1e-1", "TPIR@1e-1"]), (299, 299, [], ["TAR@1e-1", "TPIR@1e-1"])):
        folder = write_people(tmp_path / f"{nonmated}_{pairs}", 10, nonmated, pairs)
        report = compare_people(folder, "bad", "good")
        assert [name for name in report["reliable"] if "@" in name] == counted
        assert [name for name in report["headline"] if "@" in name] == first        # the smallest reliable rate, or the largest
        overall = {name: entry["overall"] for name, entry in report["upgrades"]["new"]["criterion"].items()}
        assert {name for name, word in overall.items() if word is not None} == set(report["reliable"])
        assert report["upgrades"]["new"]["criterion"]["TPIR@1e-1"]["verdict"] == "better"       # alone it may have one
        summary = next(table for table in tables_of(report) if table.title.startswith("All"))
        higher = str(len(overall) - 1)                                                  # all but top-10, which is 1 as before
        assert summary.rows[0][:6] == ["new", "compatible", higher, higher, "1", "0"]
