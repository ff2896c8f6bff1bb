"""The comparison refuses input that does not fit."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from toy_comparison import run_compare

from tools.compare import compare
from tools.compare.report import Comparison
from utils.errors import UserError
from utils.locks import hold_folder


@pytest.fixture
def copy(people, tmp_path) -> Path:
    shutil.copytree(people, tmp_path / "copy")
    return tmp_path / "copy"


def refused(monkeypatch, folder: Path, *more, old="old", new="new") -> str:
    with pytest.raises(UserError) as error:
        run_compare(monkeypatch, "-d", folder, "--old", f"old={folder / old}", "--new", f"new={folder / new}", "--backfill", 0,
                    "--out", folder / "out", *more)
    return str(error.value)


def test_features_that_are_not_finite_are_named(copy, monkeypatch):
    rows = np.load(copy / "new/probe.npy")
    rows[[3, 9], 2] = np.nan, np.inf
    np.save(copy / "new/probe.npy", rows)
    assert "NaN, infinity or only zeros for probe row 3, probe row 9;" in refused(monkeypatch, copy)
    rows[[3, 9]] = 1
    rows[5], rows[7] = 0, 1e25                  # no direction; a norm that float32 cannot hold
    np.save(copy / "new/probe.npy", rows)
    assert "only zeros for probe row 5, probe row 7;" in refused(monkeypatch, copy)


def test_a_foreign_json_next_to_features_is_ignored(copy, monkeypatch):
    for text in ('["first", "second"]', '{"bytes": 7}', "{}\n{}\n"):
        (copy / "new/gallery.json").write_text(text)
        run_compare(monkeypatch, "-d", copy, "--old", f"old={copy / 'old'}", "--new", f"new={copy / 'new'}", "--backfill", 0,
                    "--draws", 0, "--out", copy / "out")


def test_different_dimensions_are_refused_with_the_options_that_map_them(copy, monkeypatch):
    sentence = refused(monkeypatch, copy, new="six")
    assert "new has 6 dimensions, old has 8" in sentence and "--new-features new=FILE.npy" in sentence


def test_wrong_files_and_names_are_refused(copy, monkeypatch):
    assert "expected NAME=FILE" in refused(monkeypatch, copy, "--paragon", "nothing")
    assert "a different name for each version, found old, new, new" in refused(monkeypatch, copy, "--paragon",
                                                                               f"new={copy / 'turned'}")
    assert "need both --old-features" in refused(monkeypatch, copy, "--old-features", copy / "old/train.npy")
    assert "--metrics TAR@1e-6 is not a figure that this data supports" in refused(monkeypatch, copy, "--metrics", "TAR@1e-6")
    maps = ["--old-features", copy / "old/train.npy", "--new-features"]
    assert "nothing holds neither IJBC" in refused(monkeypatch, copy, "-d", copy / "nothing")
    assert "expected a folder of gallery.npy" in refused(monkeypatch, copy, new="new/probe.npy")
    assert "each once" in refused(monkeypatch, copy, *maps, *[f"new={copy / 'new/train.npy'}"] * 2)
    assert "no file" in refused(monkeypatch, copy, *maps, f"new={copy / 'new/nothing.npy'}")
    assert "new+ridge, which is the name of a map" in refused(monkeypatch, copy, "--paragon", f"new+ridge={copy / 'turned'}",
                                                              *maps, f"new={copy / 'new/train.npy'}")
    np.save(copy / "new/gallery.npy", np.ones((79, 8), np.float32))
    assert "expected features [80, d]" in refused(monkeypatch, copy)
    (copy / "new/gallery.npy").unlink()
    assert "expected gallery.npy and probe.npy in the folder" in refused(monkeypatch, copy)
    pairs = np.load(copy / "pairs.npy")
    pairs[4, 2] = 1 - pairs[4, 2]
    np.save(copy / "pairs.npy", pairs)
    assert "pairs.npy row 4 labels gallery row" in refused(monkeypatch, copy)
    np.save(copy / "probe_label.npy", np.ones(3))
    assert "expected a list of ints or of text" in refused(monkeypatch, copy)
    (copy / "probe_label.npy").write_bytes(b"\x93NUMPY")
    assert "is not a complete .npy file" in refused(monkeypatch, copy)


def test_a_gallery_of_one_and_probes_without_mates(tmp_path, monkeypatch, capsys):
    """One subject in the gallery, one mated probe, 40 non-mated ones: notes name what the data does not support."""
    draw = np.random.default_rng(0)
    np.save(tmp_path / "gallery_label.npy", np.array([5]))
    np.save(tmp_path / "probe_label.npy", np.array([5] + [6] * 40))
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "gallery.npy", draw.standard_normal((1, 4)).astype(np.float32))
        np.save(tmp_path / name / "probe.npy", draw.standard_normal((41, 4)).astype(np.float32))
    run_compare(monkeypatch, "-d", tmp_path, "--old", f"old={tmp_path / 'old'}", "--new", f"new={tmp_path / 'new'}", "--out",
                tmp_path / "out", "--draws", 20, "--backfill", 2)
    text = capsys.readouterr().out
    assert "Gallery gallery has a single subject" in text and "40 of 41 probes have no mate" in text
    assert "smallest FPIR that they support is 0.025" in text and "no pairs.npy, so the 1:1 protocol is left out" in text
    assert (tmp_path / "out/index.html").is_file()
    assert "subjects with a mated probe is 1: too few for a verdict, which needs 10" in text
    assert "new: undecided. No figure rests on enough errors and people to count." in text
    assert "ANSWER: no answer. The evaluation set is too small: a figure counts if it rests on 30 errors and 10 people" in text
    np.save(tmp_path / "probe_label.npy", np.array([4] + [6] * 40))
    assert "neither pairs nor a mated probe" in refused(monkeypatch, tmp_path)


def test_a_folder_in_the_place_of_a_result_is_named(copy, monkeypatch):
    for name in ("upgrade.json", "flips_gone.csv"):
        (copy / "out" / name).mkdir(parents=True)
        assert f"cannot write {copy / 'out' / name}: Is a directory" in refused(monkeypatch, copy, "--draws", 0)
        (copy / "out" / name).rmdir()


def test_features_that_are_written_during_the_comparison_are_refused(copy, monkeypatch):
    """By numpy, into the file that is mapped: its rows would be of two models."""
    report = Comparison.report

    def written(comparison):
        found = report(comparison)
        np.save(copy / "new/probe.npy", np.load(copy / "turned/probe.npy"))
        return found
    monkeypatch.setattr(Comparison, "report", written)
    assert f"{copy / 'new/probe.npy'} was written while the versions were compared" in refused(monkeypatch, copy, "--draws", 0)
    assert not (copy / "out/index.html").exists()


def test_a_second_comparison_into_the_same_folder_is_refused(copy, monkeypatch):
    """The files of two would be mixed: the page of one, the figures of the other."""
    monkeypatch.setattr(compare, "PATIENCE", 0)
    (copy / "out").mkdir()
    with hold_folder(copy / "out", "", 0):
        assert "another comparison writes into" in refused(monkeypatch, copy)
