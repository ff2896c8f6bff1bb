"""Write the old prototypes: the mean old feature of each class, as unit rows (BCT, UniBCT).

    python tools/get_feature/get_avg_feature.py --SD f128_r18_softmax_class70

It reads feature_save/<scenario>/<SD>_{feature,label}.npy and writes <SD>_avg_feature.npy, float32 [classes, d].
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from old_model.features import load_features, origin_from
from old_model.names import FEATURE_SAVE, artefact
from old_model.order import warn_about_order
from old_model.present import with_vector
from old_model.statistics import class_counts, class_means
from utils.command_line import Parser, print_written
from utils.errors import run
from utils.origin import save_array
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
    some, own, rows = with_vector(features, labels, source)
    warn_about_order(some, own, source)
    classes, origin = slice(None), origin_from(source)
    count = len(class_counts(labels, source))
    if len(rows) < len(labels):
        classes, own = np.unique(own, return_inverse=True)          # type: ignore[assignment]
        origin["classes_left_out"] = count - len(classes)           # type: ignore[arg-type]
        print(f"{len(labels) - len(rows)} of {len(labels)} images and {origin['classes_left_out']} of {count} classes have no "
              f"old vector: such a class has a row of zeros, and is left out in training")
    means = class_means(some, own, source)
    prototypes = np.zeros((count, means.shape[1]), np.float32)
    prototypes[classes] = means / np.linalg.norm(means, axis=1, keepdims=True)
    target = artefact(args.feature_save, args.SD, "avg_feature")
    save_array(target, prototypes, origin)
    print(f"{len(prototypes)} prototypes of {prototypes.shape[1]} dimensions")
    print_written(target)


if __name__ == "__main__":
    run(main)
