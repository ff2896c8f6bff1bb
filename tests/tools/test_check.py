"""The check before a training: every fault is a row, all of them at once; what is right is said with its figures."""

import json
import logging
import pickle
import re
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from toy import jpeg, write_records

from backbones import get_model
from backbones.weights import fingerprint
from engine import cost
from engine.checkpoint import Checkpoints, Position
from engine.loop import build, main
from engine.method import Method
from engine.signals import StopSignal
from losses import PartialFC, SoftmaxHead
from records.faces import FaceRecords
from records.recordio import RecordWriter, pack
from tools.check import check
from utils.config import load_config
from utils.errors import UserError
from utils.origin import save_array

ROOT = Path(__file__).resolve().parents[2]
SD = "f128_r18_softmax_class70"
COUNTS = [9, 11, 7, 8, 6]
SMALL = ["network=mbf", "image_size=16", "batch_size=4", "val_targets=['lfw']"]
CONFIG = "BCT_Methods/{0}/configs/OPclass_ms1mv3_r18_to_r50_{0}_softmax_to_arc_f128.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Records, verification set, an old model and all that it leaves."""
    folder = tmp_path_factory.mktemp("check")
    labels = np.array(write_records(folder / "data/train_part_70_class", COUNTS))
    images = [jpeg(i // 2, i, 16) for i in range(24)]
    (folder / "data/lfw.bin").write_bytes(pickle.dumps((images, [i % 2 == 0 for i in range(12)])))
    model = get_model("mbf", num_features=128, image_size=16)
    (folder / "old").mkdir()
    torch.save(model.state_dict(), folder / "old/model.pt")
    origin = {"model": fingerprint(model.state_dict()), "records": FaceRecords(folder / "data/train_part_70_class").fingerprint(),
              "images": len(labels)}
    draw = np.random.default_rng(0)
    for kind, array in (("feature", draw.standard_normal((len(labels), 128)).astype(np.float32)), ("label", labels),
                        ("credible_ratio_90_feature", draw.random(len(labels)) < 0.9),
                        ("avg_feature", draw.standard_normal((len(COUNTS), 128)).astype(np.float32))):
        save_array(folder / f"save/OPclass/{SD}_{kind}.npy", array, origin)
    return folder


@pytest.fixture
def data(made, tmp_path) -> Path:
    """A copy, to be damaged."""
    return shutil.copytree(made, tmp_path / "copy")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command on a folder; (rows of the table by what, exit sentence or None)."""
    def call(folder: Path, config: str, *more: str) -> tuple[dict, str | None]:
        where = [f"dataset={folder / 'data'}", f"feature_save={folder / 'save'}", f"old_model={folder / 'old/model.pt'}",
                 f"output={folder / 'out'}"]
        monkeypatch.setattr(sys, "argv", ["check.py", str(ROOT / config), *where, *SMALL, "--ranks", "2", *more])
        try:
            check.main()
            end = None
        except UserError as error:
            end = str(error)
        rows = {}
        for line in capsys.readouterr().out.splitlines():
            what, found, verdict = [part.strip() for part in line.split(" | ")] if line.count(" | ") == 2 else ("", "", "")
            if what.strip("| "):
                last = what.strip("| ")
                rows.setdefault(last, []).append([verdict.strip("| "), found])
            elif found and rows:
                rows[last][-1][1] += f" {found}"                # a long cell goes on in the next line
        assert not dist.is_initialized()
        assert rows.pop("what") == [["verdict", "found"]]
        return rows, end
    return call


def wrong(rows: dict) -> dict:
    return {what: found for what, said in rows.items() for verdict, found in said if verdict in ("missing", "wrong")}


@pytest.mark.parametrize("method", ["MixBCT", "UniBCT", "NCCL", "BCT", "AdvBCT", "L2"])
def test_all_is_there(run, made, method):
    rows, end = run(made, CONFIG.format(method), "--all")
    assert end is None, rows
    asked = {"MixBCT": {"old_feature", "credible"}, "BCT": {"prototypes"}}.get(method, {"old_feature"})
    assert asked == set(rows) & set(check.READERS)
    assert f"{method}, trained by" in rows["config"][0][1]
    assert "41 images, 5 classes" in rows["records"][0][1] and "41 of 41 decoded" in rows["images"][0][1]
    assert "6 to 11, median 8" in rows["labels"][0][1] and "12 pairs" in rows["lfw"][0][1]
    assert "2 x 4 images, 5 steps an epoch" in rows["step"][0][1]
    assert all(verdict == "ok" for said in rows.values() for verdict, _ in said)


def test_every_config_that_comes_with_the_project():
    """Its script, method and head are found, and its settings are right."""
    configs = [p for pattern in ("configs/*.py", "BCT_Methods/*/configs/*.py") for p in ROOT.glob(pattern) if p.stem != "base"]
    assert len(configs) > 60
    for path in configs:
        report = check.Report()
        method, head = check.classes_of(check.script_of(path))
        check.look_at_settings(check.read_settings(str(path), [], report), report)
        old = path.parent == ROOT / "configs"
        assert report.rows == [] and method.__name__ == ("Method" if old else path.parents[1].name), path
        assert head.__name__ == ("SoftmaxHead" if old and "softmax" in path.stem else "PartialFC"), path


def test_old_models(run, made):
    for name, head in (("softmax", "softmax"), ("arc", "arc")):
        dim = {"softmax": "f128", "arc": "f512"}[name]
        rows, end = run(made, f"configs/{dim}_r18_{name}_class30.py", "rec=train_part_70_class", "old_model=None")
        assert end is None and f"train_old_{head}.py" in rows["config"][0][1] and "old_feature" not in rows


def test_everything_that_is_wrong_is_said_at_once(run, data, monkeypatch):
    save, records = data / "save/OPclass", data / "data/train_part_70_class"
    np.save(save / f"{SD}_credible_ratio_90_feature.npy", np.ones(40, bool))
    (save / f"{SD}_credible_ratio_90_feature.json").unlink()
    origin = json.loads((save / f"{SD}_feature.json").read_text())
    (save / f"{SD}_feature.json").write_text(json.dumps(origin | {"records": "of another file"}))
    (data / "data/lfw.bin").unlink()
    good = records.with_suffix(".rec").read_bytes()
    at = good.rindex(b"\xff\xd8\xff")
    four, twelve = b"\0\0\x80\x40", b"\0\0\x40\x41"
    records.with_suffix(".rec").write_bytes(good[:at - 8] + good[at - 8:at].replace(four, twelve) + good[at:])
    monkeypatch.setattr(cost.shutil, "disk_usage", lambda _: namedtuple("usage", "free")(10**6))
    rows, end = run(data, CONFIG.format("MixBCT"))
    found = wrong(rows)
    assert set(found) == {"labels", "old_feature", "credible", "disk"}, found
    assert "40 of 41 are whole numbers from 0 to 5 - 1; record 41 has 12" in found["labels"]
    assert "different records" in found["old_feature"] and "bool [40], expected bool [41]" in found["credible"]
    assert "0.00 GB free; free some" in found["disk"]
    assert rows["lfw"][0][0] == "warning" and "left out" in rows["lfw"][0][1]
    assert end == f"4 of {sum(map(len, rows.values()))} rows are missing or wrong: see the table"


def test_settings(run, made):
    rows, _ = run(made, CONFIG.format("MixBCT"), "batchsize=3", "dali=True", "optimizer=lion", "lr=fast", "frequent=0",
                  "margin_list=(2.0,0.5,0.0)", "network=r19")
    said = " ".join(found for _, found in rows["settings"])
    for part in ("did you mean config.batch_size", "config.dali", '"sgd" or "adamw"', "config.lr = 'fast'", "config.frequent = 0",
                 "m1 must be 1", "did you mean r18"):
        assert part in said, part
    assert rows["credible"][0][0] == "ok"                           # the rest is looked at all the same


def test_settings_that_end_a_training_later(run, data):
    rows, _ = run(data, CONFIG.format("MixBCT"), "workers=-1", "timeout=0", "save_every=None", "decay_epoch=5",
                  "keep_checkpoints=1.5", "seed=-1", "val_targets=lfw", "sample_rate=None")
    said = " ".join(found for _, found in rows["settings"])
    for part in ("workers = -1", "timeout = 0", "save_every = None", "'int' object is not iterable", "keep_checkpoints = 1.5",
                 "seed = -1", "config.val_targets = 'lfw'", "sample_rate = None"):
        assert part in said, part
    (data / "file").touch()
    assert "cannot write" in wrong(run(data, CONFIG.format("MixBCT"), f"output={data / 'file'}")[0])["output"]
    (data / "out/checkpoints/40").mkdir(parents=True)
    (data / "out/checkpoints/40/complete.json").touch()
    assert "give resume=True" in wrong(run(data, CONFIG.format("MixBCT"))[0])["output"]
    assert "no checkpoint is whole" in wrong(run(data, CONFIG.format("MixBCT"), "resume=True")[0])["output"]


def test_a_checkpoint_to_go_on_from(data, monkeypatch, run):
    """Of another training, or damaged: the training would refuse it."""
    arguments = [str(ROOT / "configs/f128_r18_softmax_class30.py"), f"dataset={data / 'data'}", "rec=train_part_70_class", *SMALL,
                 f"output={data / 'out'}", "num_epoch=1"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    main(head=SoftmaxHead)
    dist.destroy_process_group() if dist.is_initialized() else None
    how = ("configs/f128_r18_softmax_class30.py", "rec=train_part_70_class", "old_model=None", "resume=True")
    assert run(data, *how)[0]["output"][0][0] == "ok"
    found = wrong(run(data, *how, "seed=1", "optimizer=adamw")[0])
    assert "optimizer was 'sgd', is 'adamw'; seed was 666, is 1" in found["output"]
    file = next((data / "out/checkpoints").glob("*/rank_0.pt"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert "no checkpoint is whole" in wrong(run(data, *how)[0])["output"]


def test_many_bad_records_side_by_side_end_a_training():
    faces = SimpleNamespace(bad_records="skip")
    assert check.how_bad(faces, np.arange(500, 599), 100_000) == "warning"
    assert check.how_bad(faces, np.arange(500, 600), 100_000) == "wrong"
    assert check.how_bad(faces, np.arange(0, 1000, 2), 100_000) == "warning"
    assert check.how_bad(faces, np.arange(0, 1002, 2), 100_000) == "wrong"       # half of what a rank may meet


def test_records_cut_short(run, data):
    rec = data / "data/train_part_70_class.rec"
    rec.write_bytes(rec.read_bytes()[:-700])
    rows, end = run(data, CONFIG.format("MixBCT"))
    assert set(wrong(rows)) == {"records", "old features"} and "past the end of the file" in wrong(rows)["records"] and end


def test_an_image_that_is_none(run, data):
    with RecordWriter(data / "data/train_part_70_class") as writer:
        writer.write(0, pack([9, 2], b"", 0, 0))
        for key in range(1, 9):
            writer.write(key, pack([key % 2, 0], b"no image" if key in (3, 5) else jpeg(0, key, 16 * (1 + (key == 7))), key, 0))
    rows, _ = run(data, "configs/f128_r18_softmax_class30.py", "rec=train_part_70_class", "--all", "batch_size=2")
    assert "2 of 8 cannot be read" in wrong(rows)["images"] and "record 3" in wrong(rows)["images"]


def test_bad_records_that_are_skipped(run, data):
    """Half a percent of them are a warning: training takes them, up to 1 % at any time on any rank."""
    with RecordWriter(data / "data/train_part_70_class") as writer:
        writer.write(0, pack([401, 2], b"", 0, 0))
        for key in range(1, 401):
            writer.write(key, pack([key % 2 if key != 7 else 5, 0], b"no image" if key in (3, 7) else jpeg(0, key, 16), key, 0))
    how = ("configs/f128_r18_softmax_class30.py", "rec=train_part_70_class", "--all", "batch_size=2", "old_model=None")
    rows, end = run(data, *how, "bad_records=skip")
    assert end is None and [rows[what][0][0] for what in ("labels", "images")] == ["warning", "warning"]
    assert "399 of 400" in rows["labels"][0][1] and "2 of 400 cannot be read" in rows["images"][0][1]
    assert set(wrong(run(data, *how)[0])) == {"labels", "images"}


@pytest.mark.parametrize("kind, damage, words", [
    ("feature", lambda file: file.unlink(), "no file .*make it with: python tools/get_feature/get_feature.py"),
    ("feature", lambda file: np.save(file, np.full((41, 128), np.nan, np.float32)), "corrupt"),
    ("feature", lambda file: save_array(file, np.full((41, 128), np.nan, np.float32), {}), "NaN or infinity near row 0"),
    ("label", lambda file: save_array(file, np.full(41, 7), {}), "from 7 to 7, expected"),
])
def test_old_features(run, data, kind, damage, words):
    damage(data / f"save/OPclass/{SD}_{kind}.npy")
    rows, _ = run(data, CONFIG.format("AdvBCT"))
    found = wrong(rows)
    assert set(found) == {"method" if kind == "label" else "old_feature"}
    assert re.search(words, *found.values()), found


def test_a_whole_checksum_sees_what_training_does_not(run, data, monkeypatch):
    from utils import files

    monkeypatch.setattr(files, "BLOCK", 2)
    file = data / f"save/OPclass/{SD}_feature.npy"
    save_array(file, np.load(file), json.loads(file.with_suffix(".json").read_text()))
    np.load(file, mmap_mode="r+")[20, 5] += 1
    assert "checksum differs" in wrong(run(data, CONFIG.format("L2"))[0])["old_feature"]


def test_a_script_of_ones_own(run, made, tmp_path):
    """As the README shows it: without a guard around main."""
    (tmp_path / "mine.py").write_text("from engine.loop import main\nfrom engine.method import Method\n"
                                      "class Mine(Method):\n    pass\nmain(Mine)\n")
    rows, end = run(made, CONFIG.format("L2"), "--script", str(tmp_path / "mine.py"))
    assert end is None and "Mine, trained by" in rows["config"][0][1] and "old_feature" not in rows
    assert "trains nothing" in wrong(run(made, CONFIG.format("L2"), "--script", str(ROOT / "utils/seed.py"))[0])["method"]


# --- figures ---------------------------------------------------------------------------------------------

def test_disk_is_what_training_leaves(tmp_path, one_rank):
    """Against the files of three epochs that the loop's own class writes, after a step with momentum."""
    cfg = load_config(ROOT / "configs/f128_r18_softmax_class30.py", [*SMALL, "num_epoch=3", f"output={tmp_path}"])
    cfg.num_classes, cfg.num_image = 3000, 12
    trainer = build(cfg, one_rank, Method, PartialFC)
    for parameter in (*trainer.plain_backbone.parameters(), *trainer.head.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    checkpoints = Checkpoints(cfg, one_rank, trainer, {}, StopSignal(), logging.getLogger("bct"))
    for epoch in (1, 2, 3):
        checkpoints.epoch_ends(Position(epoch), True)
    written = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    one = sum(file.stat().st_size for file in tmp_path.glob("checkpoints/36/*"))
    left, most = cost.training_bytes(cfg, 3000, 1)
    assert left == pytest.approx(written, rel=0.03) and most - left == pytest.approx(one, rel=0.03)
    assert cost.training_bytes(cfg, 3000, 1, 10**6)[0] == left + 2 * 10**6


def test_peak_of_a_step_counted_by_hand():
    """Two layers of squares: x [8, 1000] -> a = x^2 -> b = a^2 -> loss; 4 bytes a number."""
    class Squares(nn.Module):
        def forward(self, x):
            return x.square().square().sum()

    with FakeTensorMode():
        most = cost.step_bytes(Squares(), torch.empty(8, 1000, requires_grad=True))
    assert 3 * 32_000 <= most <= 5 * 32_000         # a, b forwards; a, its gradient and a factor of it backwards


def test_memory_without_data_is_that_of_a_real_step():
    """The same count on real tensors, and it grows with the batch by what a batch takes."""
    def most(batch: int, fake: bool) -> int:
        model = get_model("mbf", num_features=8, image_size=32).train()
        with FakeTensorMode(allow_non_fake_inputs=True) if fake else torch.enable_grad():
            return cost.step_bytes(model, torch.zeros(batch, 3, 32, 32))

    real, without = [most(b, False) for b in (4, 8)], [most(b, True) for b in (4, 8)]
    assert without == pytest.approx(real, rel=0.02)
    assert real[1] - real[0] > 0.5 * real[0]


def test_what_a_rank_holds():
    cfg = load_config(ROOT / "configs/f128_r18_softmax_class30.py", SMALL)
    parts = {}
    for ranks in (1, 8):
        with cost.pretended_ranks(ranks):
            parts[ranks] = cost.gpu_bytes(cfg, 8000, ranks, PartialFC, None)
    assert parts[1]["classes"] == 2 * 4 * 8000 * 128 == 8 * parts[8]["classes"]
    assert parts[1]["images"] == parts[8]["images"]
    rows, classes = 4, 8000             # one rank: logits of its own rows, in float32 at least cosine, logit and gradient
    assert parts[1]["logits"] > 3 * 4 * rows * classes
