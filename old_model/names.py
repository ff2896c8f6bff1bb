"""Names of what the old model leaves: --SD, record parts, artefacts in feature_save."""

import re
from pathlib import Path

from utils.errors import UserError
from utils.paths import ROOT

FEATURE_SAVE = str(ROOT / "feature_save")

# What --SD ends in -> (scenario folder in feature_save, record file in config.dataset).
PARTS = {
    "class100": ("EXclass", "train"),
    "data100": ("EXdata", "train"),
    "class70": ("OPclass", "train_part_70_class"),
    "data70": ("OPdata", "train_part_70_data"),
    "class30": ("OPclass", "train_part_30_class"),
    "data30": ("OPdata", "train_part_30_data"),
}


def part_of(sd: str) -> tuple[str, str]:
    """(scenario folder, record file) of a source-and-data name such as f128_r18_softmax_class70."""
    part = sd.rsplit("_", 1)[-1]
    if part not in PARTS:
        raise UserError(f"--SD {sd} must end in one of {' '.join(PARTS)} (the images whose features are meant)")
    return PARTS[part]


def artefact(feature_save: str, sd: str, kind: str) -> Path:
    """feature_save/<scenario>/<SD>_<kind>.npy; kind: feature, label, avg_feature, credible_ratio_90_feature."""
    return Path(feature_save) / part_of(sd)[0] / f"{sd}_{kind}.npy"


def credible_kind(share: float) -> str:
    """The name's middle part for a share in (0, 1]: 0.9 -> credible_ratio_90_feature (0.29 is 29, not 28)."""
    return f"credible_ratio_{round(100 * share, 4):g}_feature"


def sd_of(path: Path) -> str:
    """The --SD part of an artefact's file name."""
    return re.sub(r"_(feature|label|avg_feature|credible_ratio_[\d.]+_feature)$", "", path.stem)
