"""Every method in all four scenarios, from its own configs at toy size."""

import io
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from test_methods import METHODS
from toy import write_records

from engine.loop import main
from old_model.names import part_of
from old_model.statistics import class_means, credible
from records.faces import FaceRecords
from records.split import split
from utils.config import load_config

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {"EXclass": ("EXclass", 128), "EXdata": ("EXdata", 512), "OPclass": ("OPclass", 128), "OPdata": ("OPdata", 512)}
MORE = {"UniBCT": ["refine_epoch=[0]"], "NCCL": ["queue_size=16", "credible_only=True"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A toy data set, its four parts, and old features of every part as the tools would leave them."""
    folder = tmp_path_factory.mktemp("scenarios")
    write_records(folder / "data/train", [4, 5, 3, 4, 6, 2, 4, 3, 5, 4])
    split(FaceRecords(folder / "data/train"), 0.3, folder / "data")
    for name in METHODS:
        for scenario in CONFIGS:
            cfg = load_config(config(name, scenario))
            write_old_side(folder, Path(cfg.old_feature).stem.removesuffix("_feature"), cfg.embedding_size)
    return folder


def config(name: str, scenario: str) -> str:
    start, dim = CONFIGS[scenario]
    return str(ROOT / f"BCT_Methods/{METHODS[name].__name__}/configs/{start}_ms1mv3_r18_to_r50_{name}_softmax_to_arc_f{dim}.py")


def write_old_side(folder: Path, sd: str, dim: int) -> None:
    scenario, rec = part_of(sd)
    start = folder / "feature_save" / scenario / sd
    if start.with_name(f"{sd}_feature.npy").is_file():
        return
    start.parent.mkdir(parents=True, exist_ok=True)
    labels = FaceRecords(folder / "data" / rec).labels()
    features = np.random.default_rng(0).standard_normal((len(labels), dim)).astype(np.float32)
    means = class_means(features, labels)
    np.save(f"{start}_feature.npy", features)
    np.save(f"{start}_label.npy", labels)
    np.save(f"{start}_credible_ratio_90_feature.npy", credible(features, labels, 0.9))
    np.save(f"{start}_avg_feature.npy", (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32))


def train(name: str, scenario: str, place: Path, output: Path, *more: str) -> str:
    """Run the method's script in this process; what it said."""
    settings = [f"dataset={place}/data", f"feature_save={place}/feature_save", f"output={output}", "network=mbf",
                "image_size=16", "batch_size=12", "num_epoch=1", "workers=0", "val_targets=[]", "frequent=1", "lr=0.01"]
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said):
        patch.setattr("sys.argv", ["train.py", config(name, scenario), *settings, *MORE.get(name, []), *more])
        main(METHODS[name])
    assert not dist.is_initialized()
    return said.getvalue()


TERMS = {"MixBCT": {"cls"}, "L2": {"cls", "l2"}, "weakenedL2": {"cls", "l2"}, "BCT": {"cls", "bct"},
         "UniBCT": {"cls", "bct"}, "NCCL": {"cls", "feature", "logit"}, "AdvBCT": {"cls", "p2s", "adv"}}


@pytest.mark.parametrize("scenario", CONFIGS)
@pytest.mark.parametrize("name", METHODS)
def test_it_runs(name, scenario, place, tmp_path):
    said = train(name, scenario, place, tmp_path)
    terms = said.split("  loss ")[1].split("  lr ")[0].split("  ")[1:]
    assert {term.split()[0] for term in terms} == TERMS[name]
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert not any(key.startswith(("influence", "queue", "elastic", "discriminator")) for key in state)


@pytest.mark.parametrize("name", ["MixBCT", "L2", "BCT", "UniBCT", "AdvBCT"])
def test_a_sampled_head(name, place, tmp_path):
    assert "loss" in train(name, "OPclass", place, tmp_path, "sample_rate=0.5")
