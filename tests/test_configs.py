"""The settings of every config are those that its file name states."""

import re
from pathlib import Path

import pytest

from backbones import NETWORKS
from utils.config import load_config

ROOT = Path(__file__).resolve().parents[1]
METHOD_CONFIGS = sorted(p for p in ROOT.glob("BCT_Methods/*/configs/*.py") if p.name != "base.py")
OLD_CONFIGS = sorted(p for p in ROOT.glob("configs/*.py") if p.name != "base.py")
REC = {"class30": "train_part_30_class", "data30": "train_part_30_data", "class70": "train_part_70_class",
       "data70": "train_part_70_data", "class100": "train", "data100": "train"}
NINE = {("EXclass", "arc", 512), ("EXclass", "softmax", 128), ("EXdata", "arc", 512), ("EXdata", "softmax", 512),
        ("OPclass", "arc", 512), ("OPclass", "softmax", 128), ("OPclass", "softmax", 256), ("OPdata", "arc", 512),
        ("OPdata", "softmax", 512)}


@pytest.mark.parametrize("path", OLD_CONFIGS, ids=lambda p: p.stem)
def test_an_old_models_config_is_its_file_name(path):
    dim, network, loss, part = re.fullmatch(r"f(\d+)_(r\d+)_(arc|softmax)_(\w+\d+)", path.stem).groups()
    cfg = load_config(path)
    assert (cfg.embedding_size, cfg.network, cfg.rec) == (int(dim), network, REC[part])
    assert cfg.old_feature is None and cfg.network in NETWORKS
    assert Path(cfg.output) == ROOT / "work_dirs" / path.stem


@pytest.mark.parametrize("path", METHOD_CONFIGS, ids=lambda p: p.stem)
def test_a_methods_config_is_its_file_name(path):
    name = r"(EXclass|EXdata|OPclass|OPdata)_ms1mv3_(\w+?)_to_(\w+?)_(\w+)_(arc|softmax)_to_arc_f(\d+)(?:_to_f(\d+))?"
    scenario, old, new, method, loss, old_dim, new_dim = re.fullmatch(name, path.stem).groups()
    cfg = load_config(path)
    part = {"EXclass": "class100", "EXdata": "data100", "OPclass": "class70", "OPdata": "data70"}[scenario]
    seen = "class30" if "class" in scenario else "data30"
    sd = f"f{old_dim}_{old}_{loss}_{part}"
    assert method in (path.parents[1].name, "weakenedL2")
    assert (cfg.network, cfg.embedding_size, cfg.rec) == (new, int(new_dim or old_dim), REC[part])
    assert cfg.old_dim == (int(old_dim) if new_dim else None)
    assert cfg.old_feature == f"{scenario}/{sd}_feature.npy"
    assert cfg.credible == f"{scenario}/{sd}_credible_ratio_90_feature.npy"
    assert cfg.prototypes == f"{scenario}/{sd}_avg_feature.npy"
    assert Path(cfg.old_model) == ROOT / f"work_dirs/f{old_dim}_{old}_{loss}_{seen}/model.pt"
    assert (ROOT / f"configs/f{old_dim}_{old}_{loss}_{seen}.py").is_file()
    assert cfg.margin_list == (1.0, 0.5, 0.0) and cfg.num_classes is None and cfg.scenario == scenario
    assert cfg.get("threshold") == {"L2": 0.0, "weakenedL2": 0.2, "AdvBCT": 0.4}.get(method)


@pytest.mark.parametrize("method", sorted({p.parents[1].name for p in METHOD_CONFIGS}))
def test_a_method_has_all_nine_configs(method):
    found = [re.search(r"(\w+?)_ms1mv3_r18_to_r50_(\w+)_(arc|softmax)_to_arc_f(\d+)", p.stem).groups()
             for p in METHOD_CONFIGS if p.parents[1].name == method]
    assert (ROOT / f"BCT_Methods/{method}/configs/OPclass_ms1mv3_r18_to_r50_{method}_softmax_to_arc_f128_to_f512.py").is_file()
    for family in {f[1] for f in found}:
        assert {(s, loss, int(d)) for s, m, loss, d in found if m == family} == NINE


def test_both_spellings_of_the_methods_folder_are_one():
    assert (ROOT / "BCT_methods").resolve() == ROOT / "BCT_Methods"
