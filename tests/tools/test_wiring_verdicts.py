"""Verdicts of the command compare: which figures count, and what the bootstrap samples of a difference say."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_comparison import write_people

from tools.compare import compare
from tools.compare.sentences import verdict_line
from tools.compare.tables import tables_of


def compare_people(folder: Path, old: str, new: str, *more) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "draw_pictures", lambda report, out: {})
        words = ["compare.py", "-d", folder, "--old", f"old={folder / old}", "--new", f"new={folder / new}", "--backfill", 0,
                 "--draws", 60, "--out", folder / "out", *more]
        patch.setattr(sys, "argv", [*map(str, words)])
        compare.main()
    return json.loads((folder / "out/compare.json").read_text())


@pytest.mark.parametrize("people, old, new, verdict, answer", [
    (10, "bad", "good", "better", "better"), (10, "good", "bad", "worse", "worse"), (10, "bad", "bad", "safe", "safe"),
    (10, "half", "other", "undecided", "undecided"), (9, "bad", "good", None, "undecided")])
def test_a_verdict_needs_ten_people_and_follows_the_sign_of_new_minus_old(tmp_path, people, old, new, verdict, answer):
    report = compare_people(write_people(tmp_path / "data", people, nonmated=20), old, new)
    upgrade = report["upgrades"]["new"]
    assert (upgrade["criterion"]["top-1"]["verdict"], upgrade["overall"]) == (verdict, answer)
    assert report["reliable"] == (["top-1", "top-5", "top-10"] if people >= 10 else [])
    line = verdict_line("new", report)
    if answer == "undecided" and verdict:
        assert "No evidence either way. It would take" in line
    assert line.startswith(f"new: {answer}. " + (
        f"{'Left open' if answer == 'undecided' else 'Decided'} by top-" if verdict else "No figure rests on enough errors"))


def test_the_margin_of_the_command_line_is_the_loss_that_is_safe(tmp_path):
    """The new model loses a third of the probes of each person, 33.3 points in every sample."""
    folder = write_people(tmp_path / "data", 10, nonmated=20)
    for margin, answer in ((33, "worse"), (34, "safe")):
        report = compare_people(folder, "good", "bad", "--margin", margin)
        assert report["upgrades"]["new"]["overall"] == answer and report["margin"] == margin / 100


def test_several_trainings_are_one_version_with_their_mean_and_their_spread(tmp_path):
    """Three trainings against one old model: each is read, compared and shown, and the interval knows their spread."""
    folder = write_people(tmp_path / "data", 12, nonmated=20)
    names = ("good", "half", "bad")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "draw_pictures", lambda report, out: {})
        trainings = ",".join(str(folder / name) for name in names)
        patch.setattr(sys, "argv", [*map(str, [
            "compare.py", "-d", folder, "--old", f"old={folder / 'bad'}", "--new", f"new={trainings}", "--backfill", 2,
            "--orders", 2, "--draws", 60, "--out", folder / "out"])])
        compare.main()
    report = json.loads((folder / "out/compare.json").read_text())
    figure, entry = report["matrix"]["new"]["old"]["top-1"], report["upgrades"]["new"]["criterion"]["top-1"]
    assert figure["each"] == pytest.approx([1, .5, 2 / 3]) and figure["value"] == pytest.approx(13 / 18)
    assert entry["each"] == pytest.approx([1 / 3, -1 / 6, 0]) and entry["difference"] == pytest.approx(1 / 18)
    assert entry["verdict"] == "undecided" and entry["interval"][1] - entry["interval"][0] > 1      # two degrees of freedom
    assert sum(entry["shares"].values()) == pytest.approx(1) and entry["shares"]["seed"] > .8
    assert entry["needed"]["people"] is None and entry["needed"]["trainings"] > 20          # the seeds differ by 50 points
    assert entry["to tell"] == {"people": None, "trainings": None}
    assert len(report["upgrades"]["new"]["backfill"]["random"]["values"]["top-1"]) == 3 * 2
    sources, = (table for table in tables_of(report) if table.title.startswith("Where the uncertainty"))
    row = next(row for row in sources.rows if row[1] == "top-1")
    assert row[6] == "+33.33 -16.67 +0.00" and row[5] == "n/a" and int(row[3]) + int(row[4]) == 100
    assert row[2] == "more than 100 times the people"


def test_the_same_model_twice_has_a_difference_of_exactly_zero_in_every_sample(tmp_path):
    """Each cell has a wide interval; only the same samples on both sides make their difference vanish."""
    folder = write_people(tmp_path / "data", 12, nonmated=20)
    report = compare_people(folder, "half", "half")
    entry = report["upgrades"]["new"]["criterion"]["top-1"]
    low, high = report["matrix"]["new"]["old"]["top-1"]["interval"]
    assert high - low > .3 and entry["interval"] == [0, 0] and entry["verdict"] == "safe"
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
        words = {name: entry["verdict"] for name, entry in report["upgrades"]["new"]["criterion"].items()}
        assert {name for name, word in words.items() if word is not None} == set(report["reliable"])
        summary = next(table for table in tables_of(report) if table.title.startswith("All"))
        higher = str(len(words) - 1)                                                    # all but top-10, which is 1 as before
        assert summary.rows[0][:7] == ["new", "better", higher, str(len(counted) + 2), "1", "0", "0"]
        shown = {table.title.split(",")[0]: table.rows[1][1] for table in tables_of(report)[:len(report["headline"])]}
        grey = {name for name, word in shown.items() if word == "does not count"}
        assert grey == set(report["headline"]) - set(report["reliable"])


def test_the_page_knows_what_a_version_does_alone(tmp_path):
    """Half of the people are found on the old gallery by "half" and by "other": alone, "good" is better and "bad" is, too."""
    folder = write_people(tmp_path / "data", 30, nonmated=20)
    report = compare_people(folder, "half", "good")
    alone = report["upgrades"]["new"]["alone"]
    assert alone["overall"] == "better" and alone["criterion"]["top-1"]["difference"] == pytest.approx(.5)
    assert report["answer"]["word"] == "yes" and report["answer"]["version"] == "new"
    assert compare_people(folder, "good", "half")["upgrades"]["new"]["alone"]["overall"] == "worse"
    same = compare_people(folder, "half", "good", "--paragon", f"paragon={folder / 'other'}")     # half of the people, other ones
    assert same["upgrades"]["new"]["gain"]["top-1"] is None
    table = next(table for table in tables_of(same) if table.title == "top-1, in %")
    assert [row[4] for row in table.rows[1:]] == ["means nothing"] * 2 and "paragon alone is not shown to be better" in table.note


def test_models_near_guessing_get_no_answer(tmp_path):
    """The probes of "bad" point at nobody but for eight persons of 100: weak alone, whatever the words of the figures are."""
    folder = write_people(tmp_path / "data", 100, nonmated=20)
    rows = np.load(folder / "good/probe.npy")
    rows[24:300] = rows[300] + np.random.default_rng(0).normal(0, 1e-3, rows[24:300].shape)
    np.save(folder / "bad/probe.npy", rows)
    for old, new, weak in (("bad", "bad", ["old", "new"]), ("good", "good", []), ("bad", "good", ["old"])):
        report = compare_people(folder, old, new)
        assert report["weak"] == weak
        assert ("too weak to decide anything" in report["answer"]["text"]) == bool(weak)
    assert report["guessing"]["top-1"] == 1 / 100
