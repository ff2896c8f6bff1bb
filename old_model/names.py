"""Names: of the record file that a source-and-data name (--SD) means, and of the files made from it in feature_save.

A source-and-data name is the old config's name with its last part replaced by the images that were embedded:
f128_r18_softmax_class30 gives f128_r18_softmax_class70.
"""

import re
from pathlib import Path

from utils.errors import UserError
from utils.paths import ROOT

FEATURE_SAVE = str(ROOT / "feature_save")

# Last part of --SD -> (scenario folder in feature_save, record file in config.dataset).
PARTS = {
    "class100": ("EXclass", "train"),
    "data100": ("EXdata", "train"),
    "class70": ("OPclass", "train_part_70_class"),
    "data70": ("OPdata", "train_part_70_data"),
    "class30": ("OPclass", "train_part_30_class"),
    "data30": ("OPdata", "train_part_30_data"),
}


def part_of(sd: str) -> tuple[str, str]:
    """(scenario folder, record file) of a source-and-data name; UserError if its last part is none of PARTS."""
    part = sd.rsplit("_", 1)[-1]
    if part not in PARTS:
        raise UserError(f"--SD {sd} must end in one of {' '.join(PARTS)}: it says which images are embedded")
    return PARTS[part]


def artefact(feature_save: str, sd: str, kind: str) -> Path:
    """The file feature_save/<scenario>/<SD>_<kind>.npy.  kind: feature, label, avg_feature, credible_ratio_90_feature."""
    return Path(feature_save) / part_of(sd)[0] / f"{sd}_{kind}.npy"


def credible_kind(share: float) -> str:
    """The kind of the credible marks for a share in (0, 1]: 0.9 -> credible_ratio_90_feature."""
    return f"credible_ratio_{round(100 * share, 4):g}_feature"       # 100 * 0.29 is 28.999999999999996


def sd_of(path: Path) -> str:
    """The source-and-data name in the name of such a file."""
    return re.sub(r"_(feature|label|avg_feature|credible_ratio_[\d.]+_feature)$", "", path.stem)
