"""For the tests of tools/check: a folder with all that a training needs, and the command on it. For tools/compare: features."""

import pickle
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from toy import jpeg, write_records
from toy_comparison import write_features

from backbones import get_model
from backbones.weights import fingerprint
from engine import cost
from records.faces import FaceRecords
from tools.check import check
from utils.errors import UserError
from utils.origin import save_array

ROOT = Path(__file__).resolve().parents[2]
SD = "f128_r18_softmax_class70"
COUNTS = [9, 11, 7, 8, 6]           # images of each class
SMALL = ["network=mbf", "image_size=16", "batch_size=4", "val_targets=['lfw']"]


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """Feature files of several versions; a test does not change them."""
    folder = tmp_path_factory.mktemp("features")
    write_features(folder)
    return folder


@pytest.fixture(scope="session")
def check_folder(tmp_path_factory) -> Path:
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
    centres = 2 * draw.standard_normal((len(COUNTS), 128))
    features = (centres[labels] + draw.standard_normal((len(labels), 128))).astype(np.float32)
    for kind, array in (("feature", features), ("label", labels),
                        ("credible_ratio_90_feature", draw.random(len(labels)) < 0.9),
                        ("avg_feature", draw.standard_normal((len(COUNTS), 128)).astype(np.float32))):
        save_array(folder / f"save/OPclass/{SD}_{kind}.npy", array, origin)
    return folder


@pytest.fixture
def check_copy(check_folder, tmp_path) -> Path:
    """A copy of check_folder that a test may damage."""
    return shutil.copytree(check_folder, tmp_path / "copy")


@pytest.fixture(scope="session")
def counted_once():
    """engine.cost.step_bytes that keeps its results: it takes a second, and the checks call it with the same few networks."""
    counts = {}

    def step_bytes(module, *inputs):
        key = type(module), sum(p.numel() for p in module.parameters()), inputs[0].shape
        if key not in counts:
            counts[key] = count(module, *inputs)
        return counts[key]
    count = cost.step_bytes
    return step_bytes


@pytest.fixture
def run_check(monkeypatch, capsys, counted_once):
    """Runs the command on a folder; (rows of the table by what, exit sentence or None)."""
    monkeypatch.setattr(cost, "step_bytes", counted_once)
    monkeypatch.setattr(cost.shutil, "disk_usage", lambda _: namedtuple("usage", "free")(10**12))   # nothing is trained here

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
                rows[last][-1][1] += f" {found}"                # a long cell continues in the next line
        assert not dist.is_initialized()
        assert rows.pop("what") == [["verdict", "found"]]
        return rows, end
    return call


@pytest.fixture
def wrong():
    """{what: found} of the rows that keep the training from running."""
    return lambda rows: {what: found for what, cells in rows.items() for verdict, found in cells
                         if verdict in ("missing", "wrong")}
