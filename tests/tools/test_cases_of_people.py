"""IJB folders and feature files with mistakes that people make, through the commands."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ijb_toys import two_galleries
from toy_comparison import run_compare, write_features, write_people

from evaluation.protocol import read_images, read_pairs, read_search
from tools.compare.pictures import plain
from tools.ijbc_eval import ijbc_eval
from utils.errors import UserError

META = "IJBC/meta/ijbc_"


def change(folder: Path, name: str, edit) -> None:
    file = folder / f"{META}{name}"
    file.write_text("\n".join(edit(file.read_text().splitlines())) + "\n")


def read_all(folder: Path, count_missing: bool = False):
    images = read_images(folder, "IJBC", count_missing)
    return images, read_pairs(folder, "IJBC", images), read_search(folder, "IJBC", images)


@pytest.fixture
def ijb(tmp_path) -> Path:
    np.save(tmp_path / "views.npy", two_galleries(tmp_path)["new"])
    np.save(tmp_path / "old.npy", two_galleries(tmp_path / "again")["old"])
    return tmp_path


def compare(folder: Path, *more) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        run_compare(patch, "-d", folder, "--old", f"old={folder / 'old.npy'}", "--new", f"new={folder / 'views.npy'}",
                    "--draws", 0, "--backfill", 2, "--out", folder / "out", *more)
    return json.loads((folder / "out/compare.json").read_text())


@pytest.mark.parametrize("score", ["0", "-1", "-0.0", "-1e-9"])
def test_images_in_which_no_face_was_detected_are_refused_with_their_number(ijb, score):
    change(ijb, "name_5pts_score.txt", lambda rows: [row.rsplit(" ", 1)[0] + f" {score}" if k in (4, 9, 20) else row
                                                     for k, row in enumerate(rows)])
    with pytest.raises(UserError, match="3 images have a detector score of 0 or below.*first: 5.png"):
        read_images(ijb, "IJBC")


@pytest.mark.parametrize("header, turned", [("SUBJECT_ID,TEMPLATE_ID", True), ("template_id , subject_id", False),
                                            ('"Subject","FILE","Template"', None), ("sid,tid,FRAME", True), ("a,b", False)])
def test_columns_are_found_by_the_header(ijb, header, turned):
    expected = read_all(ijb)[2]
    for name in ("1N_gallery_G1.csv", "1N_gallery_G2.csv", "1N_probe_mixed.csv"):
        change(ijb, name, lambda rows: [header] + [
            f"{s},7,{t}" if turned is None else f"{s},{t}" if turned else f"{t},{s}"
            for t, s in (row.split(",") for row in rows[1:])])
    found = read_all(ijb)[2]
    for one, two in zip([*found.galleries.values(), found.probes], [*expected.galleries.values(), expected.probes], strict=True):
        assert np.array_equal(one.templates, two.templates) and np.array_equal(one.subjects, two.subjects)


@pytest.mark.parametrize("header", ["TEMPLATE_ID,TEMPLATE_ID", "TEMPLATE_ID,NAME", "NAME,SUBJECT_ID"])
def test_a_header_with_one_of_the_two_columns_is_refused(ijb, header):
    change(ijb, "1N_gallery_G1.csv", lambda rows: [header, *rows[1:]])
    with pytest.raises(UserError, match="expected one column TEMPLATE_ID and one SUBJECT_ID"):
        read_all(ijb)


# Rows 10 to 41 of the list of images are the probes 100 to 131, an image each; 130 and 131 have no mate.
@pytest.mark.parametrize("gone, tpir, top, non_mated", [
    ([100, 131], (.4, .75), 27, 21), ([110], (.5, .7), 27, 22), ([130, 131], (.5, .75), 28, 20)])
def test_templates_without_an_image_are_never_matched_if_they_are_counted(ijb, gone, tpir, top, non_mated):
    """Of 10 and 20 mated probes 5 and 15 are found at FPIR 0.1: a lost one lowers the share, not the number of mated probes."""
    for name in ("face_tid_mid.txt", "name_5pts_score.txt"):
        change(ijb, name, lambda rows: [row for k, row in enumerate(rows) if k - 10 + 100 not in gone])
    for file in ("views.npy", "old.npy"):
        views = np.load(ijb / file)
        np.save(ijb / file, np.delete(views, [10 + probe - 100 for probe in gone], axis=1))
    with pytest.raises(UserError, match=f"{len(gone)} templates have no image .*first: template {gone[0]}.*--missing count"):
        compare(ijb)
    report = compare(ijb, "--missing", "count")
    cell = report["matrix"]["new"]["old"]
    assert cell["top-1"]["value"] == pytest.approx(top / 30) and cell["TPIR@1e-1"]["value"] == pytest.approx(np.mean(tpir))
    images, pairs, search = read_all(ijb, count_missing=True)
    mated = [probe for probe in gone if probe < 130]
    assert pairs.same.sum() == 30 and pairs.never.sum() == len(mated) and not pairs.never[~pairs.same].any()
    assert (~pairs.same).sum() == 98 - 3 * len(mated) - 4 * (len(gone) - len(mated))
    assert len(search.probes.templates) == 32 - (len(gone) - len(mated))
    assert any(f"{len(gone)} templates have no image; they count as never matched" in text for text in report["warnings"])
    row, = report["upgrades"]["new"]["threshold"]["1:N"]
    assert row["of"] == 34 - 2 * (len(gone) - len(mated)) - len(mated)


def test_a_gallery_template_without_image_is_never_found(ijb):
    """Template 3 has person 12: its ten probes are not found, at no rank; the others do not meet it."""
    for name in ("face_tid_mid.txt", "name_5pts_score.txt"):
        change(ijb, name, lambda rows: [row for k, row in enumerate(rows) if k not in (3, 4, 5)])
    for file in ("views.npy", "old.npy"):
        np.save(ijb / file, np.delete(np.load(ijb / file), [3, 4, 5], axis=1))
    report = compare(ijb, "--missing", "count")
    assert report["matrix"]["new"]["old"]["top-10"]["value"] == pytest.approx(20 / 30)
    assert report["evaluation"]["gallery rows"] == {"1:1": 3, "1:N": 3} and report["evaluation"]["gallery images"]["1:N"] == 7


def test_the_evaluator_counts_missing_templates_as_the_comparison_does(ijb, monkeypatch, capsys):
    for name in ("face_tid_mid.txt", "name_5pts_score.txt"):
        change(ijb, name, lambda rows: [row for k, row in enumerate(rows) if k != 10])
    views = np.delete(np.load(ijb / "views.npy"), [10], axis=1)
    for more in ([], ["-N"]):
        np.savez(ijb / "kept.npz", embs=views[0], embs_f=views[1])
        words = ["x", "-d", str(ijb), "-R", str(ijb / "kept.npz"), "--out", str(ijb / "out"), "--missing", "count", *more]
        monkeypatch.setattr(sys, "argv", words)
        ijbc_eval.main()
        assert "warning: 1 templates have no image; they count as never matched" in capsys.readouterr().out
    result = json.loads((ijb / "out/kept_IJBC_1N.json").read_text())["1:N"] if (ijb / "out/kept_IJBC_1N.json").is_file() else None
    if result is not None:
        assert (result["mated"], result["galleries"]["G1"]["nonmated"]) == (30, 22)


@pytest.mark.parametrize("edit, warning", [
    (lambda label, rows: (label, rows[np.random.default_rng(1).permutation(len(rows))]), "old on its own gallery is at chance"),
    (lambda label, rows: (np.roll(label, 5), rows), "old on its own gallery is at chance")])
def test_a_gallery_in_another_order_gets_no_verdict(tmp_path, monkeypatch, edit, warning):
    write_features(tmp_path)
    (tmp_path / "pairs.npy").unlink()
    label, rows = edit(np.load(tmp_path / "gallery_label.npy"), np.load(tmp_path / "old/gallery.npy"))
    np.save(tmp_path / "gallery_label.npy", label)
    np.save(tmp_path / "old/gallery.npy", rows)
    run_compare(monkeypatch, "-d", tmp_path, "--old", f"old={tmp_path / 'old'}", "--new", f"new={tmp_path / 'new'}",
                "--draws", 20, "--backfill", 0, "--out", tmp_path / "out")
    report, page = json.loads((tmp_path / "out/compare.json").read_text()), (tmp_path / "out/index.html").read_text()
    assert report["upgrades"]["new"]["overall"] == "no verdict" and any(warning in text for text in report["warnings"])
    assert warning in page and '<span class="chip grey">no verdict</span>' in page
    assert report["answer"]["word"] == "no answer" and "or these models are too weak to decide anything.</p>" in page
    assert "WARNING: old on its own" in (tmp_path / "out/compare.txt").read_text()


def test_pictures_on_both_sides_are_left_out_and_a_copied_file_gives_no_verdict(tmp_path, monkeypatch):
    folder = write_people(tmp_path / "data", 20, nonmated=20)
    call = ["-d", folder, "--old", f"old={folder / 'half'}", "--new", f"new={folder / 'good'}", "--draws", 20, "--backfill", 0,
            "--out", tmp_path / "out"]
    for copied, probes, answer in ((3, 77, "better"), (60, 80, "no verdict")):
        for name in ("half", "good"):
            rows = np.load(folder / name / "probe.npy")
            rows[:copied] = np.load(folder / name / "gallery.npy")[np.load(folder / "probe_label.npy")[:copied]]
            np.save(folder / name / "probe.npy", rows)
        run_compare(monkeypatch, *call)
        report = json.loads((tmp_path / "out/compare.json").read_text())
        assert report["evaluation"]["probes"] == probes and report["upgrades"]["new"]["overall"] == answer
        text = "3 probes and 0 genuine pairs are left out" if copied == 3 else "60 of 60 probes with a mate of new equal"
        assert any(text in warning for warning in report["warnings"])


@pytest.mark.long
@pytest.mark.parametrize("name", ["$x", "a$b$c", "n$\\frac$ew".replace("\\", ""), "x_{2}^$", "%s$$"])
def test_a_name_with_dollars_is_drawn_as_it_is(tmp_path, monkeypatch, name):
    folder = write_people(tmp_path / "data", 12, nonmated=20, pairs=40)
    run_compare(monkeypatch, "-d", folder, "--old", f"o$ld={folder / 'half'}", "--new", f"{name}={folder / 'good'}", "--draws", 0,
                "--backfill", 2, "--out", tmp_path / "out")
    assert (tmp_path / f"out/roc_{name}.png").is_file()
    assert plain(name).replace(r"\$", "$") == name and plain(name).count(r"\$") == name.count("$")


@pytest.mark.parametrize("words", [["-m", f"{'a' * 300}.onnx"], ["-m", f"{'a' * 120}.onnx", "-m_old", f"{'b' * 120}.onnx"],
                                   ["-m", "a.onnx", "-R", f"{'é' * 110}.npz"]])
def test_names_of_results_that_no_file_can_have_are_refused_before_the_images_are_read(tmp_path, monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["x", "-d", str(tmp_path / "nothing"), "--out", str(tmp_path / "out"), *words])
    with pytest.raises(UserError, match="expected at most 200: give a shorter name with -R"):
        ijbc_eval.main()
    assert not (tmp_path / "out").exists()
