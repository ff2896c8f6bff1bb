"""A toy data set in the four scenarios: record files of every part, and the old features that the configs name."""

from pathlib import Path

import numpy as np
from method_toys import ROOT, VARIANTS
from toy import write_records

from old_model.names import part_of
from old_model.statistics import class_means, credible
from records.faces import FaceRecords
from records.split import split
from utils.config import load_config

DIMS = {"EXclass": 128, "EXdata": 512, "OPclass": 128, "OPdata": 512}       # of each scenario's config with a softmax old model


def config(name: str, scenario: str) -> str:
    """Path of the config of a method in a scenario."""
    file = f"{scenario}_ms1mv3_r18_to_r50_{name}_softmax_to_arc_f{DIMS[scenario]}.py"
    return str(ROOT / f"BCT_Methods/{VARIANTS[name].__name__}/configs" / file)


def write_scenarios(folder: Path) -> Path:
    """folder/data with a training set and its four parts, folder/feature_save with old features of every part."""
    write_records(folder / "data/train", [4, 5, 3, 4, 6, 2, 4, 3, 5, 4])
    split(folder / "data/train.rec", 0.3, folder / "data")
    for name in VARIANTS:
        for scenario in DIMS:
            cfg = load_config(config(name, scenario))
            write_old_features(folder, Path(cfg.old_feature).stem.removesuffix("_feature"), cfg.embedding_size)
    return folder


def write_old_features(folder: Path, sd: str, dim: int) -> None:
    """The files of an old model of ``dim`` dimensions, as the tools write them."""
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
