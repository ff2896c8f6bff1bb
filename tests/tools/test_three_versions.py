"""v1 -> v2 -> v3 from training to comparison: v3 is trained against the features of v1 and v2, all of different dimensions."""

import json
import sys

import numpy as np
import pytest
from method_toys import METHODS
from toy import write_ijb, write_records

from engine.loop import main
from engine.method import Method
from tools.compare import compare
from tools.get_feature import get_feature
from utils.paths import ROOT

METHOD = f"{ROOT}/BCT_Methods/MixBCT/configs/OPclass_ms1mv3_r18_to_r50_MixBCT_softmax_to_arc_f128.py"
OLD = f"{ROOT}/configs/f512_r18_arc_class30.py"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Train a version of so many dimensions into tmp_path/<name>, or extract its features."""
    write_records(tmp_path / "data/train", [4, 5, 3, 4, 6, 2, 4, 3])
    common = [f"dataset={tmp_path}/data", "rec=train", f"feature_save={tmp_path}/saved", "network=cnn_s", "image_size=16",
              "batch_size=8", "num_epoch=1", "workers=0", "val_targets=[]", "lr=0.01", "old_model=None", "verbose=100"]

    def train(name: str, dim: int, config: str, method: type = Method, *more: str) -> None:
        monkeypatch.setattr(sys, "argv", ["x", config, *common, f"output={tmp_path / name}", f"embedding_size={dim}", *more])
        main(method)

    def extract(name: str, *flags: str, sd: str | None = None) -> None:
        model = f"{tmp_path / name}/model.pt:cnn_s"
        monkeypatch.setattr(sys, "argv", ["x", OLD, *common, "--SD", f"{sd or name}_class100", "--model", model, *flags])
        get_feature.main()
    return train, extract


@pytest.mark.long
def test_three_versions(run, tmp_path, monkeypatch):
    train, extract = run
    train("v1", 8, OLD)
    extract("v1")
    images = len(np.load(tmp_path / "saved/EXclass/v1_class100_feature.npy"))
    for version in ("v1", "v2"):
        (tmp_path / "saved/EXclass").mkdir(exist_ok=True, parents=True)
        np.save(tmp_path / f"saved/{version}_marks.npy", np.ones(images, bool))
    one = ["old_feature=EXclass/v1_class100_feature.npy", "old_dim=8", "credible=v1_marks.npy", "prototypes=None"]
    train("v2", 12, METHOD, METHODS["MixBCT"], *one)
    extract("v2")
    extract("v2", "--view", "8", sd="v2cut")
    whole, cut = (np.load(tmp_path / f"saved/EXclass/{sd}_class100_feature.npy") for sd in ("v2", "v2cut"))
    assert cut.shape[1] == 8 and np.array_equal(cut, whole[:, :8])
    both = [f"old_feature=[{','.join(f'EXclass/{v}_class100_feature.npy' for v in ('v1', 'v2'))}]", "old_dim=[8,12]",
            "credible=[v1_marks.npy,v2_marks.npy]", "prototypes=None"]
    train("v3", 16, METHOD, METHODS["MixBCT"], *both)
    assert {path.name for path in (tmp_path / "v3").glob("view_*.npz")} == {"view_8.npz", "view_12.npz"}

    write_ijb(tmp_path / "ijb")
    monkeypatch.setattr(sys, "argv", [
        "compare.py", "-d", f"{tmp_path}/ijb", "--old", f"v1={tmp_path}/v1/model.pt:cnn_s", "--new",
        *(f"{v}={tmp_path}/{v}/model.pt:cnn_s" for v in ("v2", "v3")), "--sequence", "--draws", "0", "--backfill", "0",
        "--workers", "0", "--out", f"{tmp_path}/out"])
    compare.main()
    report = json.loads((tmp_path / "out/compare.json").read_text())
    assert {query: set(row) for query, row in report["matrix"].items()} == {v: {"v1", "v2", "v3"} for v in ("v1", "v2", "v3")}
    assert report["sequence"] == ["v1", "v2", "v3"] and all(0 <= value <= 1 for value in report["AC"].values())
    assert any(f"with versions of 12 it is compared through its view, {tmp_path}/v3/view_12.npz" in n for n in report["notes"])
    assert "drift, queries of each version on the gallery of v1" in (tmp_path / "out/compare.txt").read_text()
