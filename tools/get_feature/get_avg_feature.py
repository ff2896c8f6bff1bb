"""Write the old prototypes: the mean old feature of each class, as unit rows (BCT, UniBCT).

    python tools/get_feature/get_avg_feature.py --SD f128_r18_softmax_class70

It reads feature_save/<scenario>/<SD>_{feature,label}.npy and writes <SD>_avg_feature.npy, float32 [classes, d].
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from old_model.features import load_features
from old_model.names import FEATURE_SAVE, artefact
from old_model.order import warn_about_order
from old_model.statistics import class_means
from utils.command_line import Parser, print_written
from utils.errors import run
from utils.origin import load_origin, save_array
from utils.paths import ROOT


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--SD", required=True, help="source and data: <old config's start>_<class70, data100, ...>")
    parser.add_argument("--feature-save", default=FEATURE_SAVE,
                        help="folder of the old features; if relative, below the repository, as the setting feature_save")
    args = parser.parse_args()
    args.feature_save = str(ROOT / args.feature_save)

    torch.set_num_threads(1)            # blocks are small: on a busy machine, threads wait for each other
    features, labels, source = load_features(args.feature_save, args.SD)
    warn_about_order(features, labels, source)
    means = class_means(features, labels, source)
    prototypes = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
    target = artefact(args.feature_save, args.SD, "avg_feature")
    save_array(target, prototypes, load_origin(source))
    print(f"{len(prototypes)} prototypes of {prototypes.shape[1]} dimensions")
    print_written(target)


if __name__ == "__main__":
    run(main)
