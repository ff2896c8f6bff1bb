"""The check before a training: each fault is a row, and one run reports all of them; what is right has a row with its figures."""

import json
import re
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from toy import jpeg

from engine import cost
from records.recordio import RecordWriter, pack
from tools.check import record_rows
from tools.check.old_model_rows import READERS
from utils.origin import save_array

ROOT = Path(__file__).resolve().parents[2]
SD = "f128_r18_softmax_class70"
CONFIG = "BCT_Methods/{0}/configs/OPclass_ms1mv3_r18_to_r50_{0}_softmax_to_arc_f128.py"


@pytest.mark.long
@pytest.mark.parametrize("method", ["MixBCT", "UniBCT", "NCCL", "BCT", "AdvBCT", "L2"])
def test_all_is_there(run_check, check_folder, method):
    rows, end = run_check(check_folder, CONFIG.format(method), "--all")
    assert end is None, rows
    asked = {"MixBCT": {"old_feature", "credible"}, "BCT": {"prototypes"}}.get(method, {"old_feature"})
    assert asked == set(rows) & set(READERS)
    assert f"{method}, trained by" in rows["config"][0][1]
    assert "41 images, 5 classes" in rows["records"][0][1] and "41 of 41 decoded" in rows["images"][0][1]
    assert "6 to 11, median 8" in rows["classes"][0][1] and "12 pairs" in rows["lfw"][0][1]
    assert "2 x 4 images, 5 steps an epoch" in rows["step"][0][1]
    assert all(verdict == "ok" for said in rows.values() for verdict, _ in said)


@pytest.mark.long
def test_old_models(run_check, check_folder):
    for name, head in (("softmax", "softmax"), ("arc", "arc")):
        dim = {"softmax": "f128", "arc": "f512"}[name]
        rows, end = run_check(check_folder, f"configs/{dim}_r18_{name}_class30.py", "rec=train_part_70_class", "old_model=None")
        assert end is None and f"train_old_{head}.py" in rows["config"][0][1] and "old_feature" not in rows


def test_one_run_reports_everything_that_is_wrong(run_check, wrong, check_copy, monkeypatch):
    save, records = check_copy / "save/OPclass", check_copy / "data/train_part_70_class"
    np.save(save / f"{SD}_credible_ratio_90_feature.npy", np.ones(40, bool))
    (save / f"{SD}_credible_ratio_90_feature.json").unlink()
    origin = json.loads((save / f"{SD}_feature.json").read_text())
    (save / f"{SD}_feature.json").write_text(json.dumps(origin | {"records": "of another file"}))
    (check_copy / "data/lfw.bin").unlink()
    good = records.with_suffix(".rec").read_bytes()
    at = good.rindex(b"\xff\xd8\xff")
    four, twelve = b"\0\0\x80\x40", b"\0\0\x40\x41"
    records.with_suffix(".rec").write_bytes(good[:at - 8] + good[at - 8:at].replace(four, twelve) + good[at:])
    monkeypatch.setattr(cost.shutil, "disk_usage", lambda _: namedtuple("usage", "free")(10**6))
    rows, end = run_check(check_copy, CONFIG.format("MixBCT"))
    found = wrong(rows)
    assert set(found) == {"labels", "old_feature", "credible", "disk"}, found
    assert "40 of 41 are whole numbers from 0 to 5 - 1; record 41 has 12" in found["labels"]
    assert "different records" in found["old_feature"] and "bool [40], expected bool [41]" in found["credible"]
    assert "0.00 GB free; free some" in found["disk"]
    assert rows["lfw"][0][0] == "warning" and "left out" in rows["lfw"][0][1]
    assert end == f"4 of {sum(map(len, rows.values()))} rows are missing or wrong: see the table"


def test_a_hundred_corrupt_records_in_a_row_or_half_a_percent_of_all_are_wrong():
    faces = SimpleNamespace(bad_records="skip")
    for corrupt, verdict in ((range(500, 599), "warning"), (range(500, 600), "wrong"), (range(0, 1000, 2), "warning"),
                             (range(0, 1002, 2), "wrong")):         # half of the 1 % that a rank may read
        assert record_rows.verdict_on_corrupt(faces, np.array(corrupt), 100_000) == verdict


def test_records_cut_short(run_check, wrong, check_copy):
    rec = check_copy / "data/train_part_70_class.rec"
    rec.write_bytes(rec.read_bytes()[:-700])
    rows, end = run_check(check_copy, CONFIG.format("MixBCT"))
    assert set(wrong(rows)) == {"records", "old features"} and "past the end of the file" in wrong(rows)["records"] and end


@pytest.mark.long
def test_a_record_that_is_not_an_image(run_check, wrong, check_copy):
    with RecordWriter(check_copy / "data/train_part_70_class") as writer:
        writer.write(0, pack([9, 2], b"", 0, 0))
        for key in range(1, 9):
            writer.write(key, pack([key % 2, 0], b"no image" if key in (3, 5) else jpeg(0, key, 16 * (1 + (key == 7))), key, 0))
    rows, _ = run_check(check_copy, "configs/f128_r18_softmax_class30.py", "rec=train_part_70_class", "--all", "batch_size=2")
    assert "2 of 8 cannot be read" in wrong(rows)["images"] and "record 3" in wrong(rows)["images"]


@pytest.mark.long
def test_corrupt_records_that_the_training_would_replace(run_check, wrong, check_copy):
    """Half a percent of them are a warning: the training accepts up to 1 % at any time on any rank."""
    with RecordWriter(check_copy / "data/train_part_70_class") as writer:
        writer.write(0, pack([401, 2], b"", 0, 0))
        for key in range(1, 401):
            writer.write(key, pack([key % 2 if key != 7 else 5, 0], b"no image" if key in (3, 7) else jpeg(0, key, 16), key, 0))
    how = ("configs/f128_r18_softmax_class30.py", "rec=train_part_70_class", "--all", "batch_size=2", "old_model=None")
    rows, end = run_check(check_copy, *how, "bad_records=skip")
    assert end is None and [rows[what][0][0] for what in ("labels", "images")] == ["warning", "warning"]
    assert "399 of 400" in rows["labels"][0][1] and "2 of 400 cannot be read" in rows["images"][0][1]
    assert set(wrong(run_check(check_copy, *how)[0])) == {"labels", "images"}


@pytest.mark.parametrize("kind, damage, words", [
    ("feature", lambda file: file.unlink(), "no file .*make it with: python tools/get_feature/get_feature.py"),
    ("feature", lambda file: np.save(file, np.full((41, 128), np.nan, np.float32)), "corrupt"),
    ("feature", lambda file: save_array(file, np.full((41, 128), np.nan, np.float32), {}), "NaN or infinity near row 0"),
    ("label", lambda file: save_array(file, np.full(41, 7), {}), "from 7 to 7, expected"),
])
def test_old_features(run_check, wrong, check_copy, kind, damage, words):
    damage(check_copy / f"save/OPclass/{SD}_{kind}.npy")
    rows, _ = run_check(check_copy, CONFIG.format("AdvBCT"))
    found = wrong(rows)
    assert set(found) == ({"method", "order of rows"} if kind == "label" else {"old_feature"})
    found.pop("order of rows", None)
    assert re.search(words, *found.values()), found


def test_the_checksum_of_every_byte_sees_what_the_training_does_not(run_check, wrong, check_copy, monkeypatch):
    from utils import files

    monkeypatch.setattr(files, "BLOCK", 2)
    file = check_copy / f"save/OPclass/{SD}_feature.npy"
    save_array(file, np.load(file), json.loads(file.with_suffix(".json").read_text()))
    np.load(file, mmap_mode="r+")[20, 5] += 1
    assert "checksum differs" in wrong(run_check(check_copy, CONFIG.format("L2"))[0])["old_feature"]
