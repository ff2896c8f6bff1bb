"""Mark the credible old features: in each class, the share T of them that is nearest to the class mean (MixBCT).

    python tools/get_feature/denoise_credible.py --T 0.9 --SD f128_r18_softmax_class70

It reads feature_save/<scenario>/<SD>_{feature,label}.npy and writes <SD>_credible_ratio_90_feature.npy, bool [images].
True: the old feature may replace the new one.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from old_model.features import load_features, origin_from
from old_model.names import FEATURE_SAVE, artefact, credible_kind
from old_model.order import warn_about_order
from old_model.present import with_vector
from old_model.statistics import credible
from utils.command_line import Parser, print_written
from utils.errors import UserError, run
from utils.origin import save_array
from utils.paths import ROOT


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--SD", required=True, help="source and data: <old config's start>_<class70, data100, ...>")
    parser.add_argument("--T", type=float, default=0.9, help="share of each class that is kept, in (0, 1]")
    parser.add_argument("--no-column-norm", action="store_true",
                        help="leave out the second normalisation (of each column, over the whole set)")
    parser.add_argument("--feature-save", default=FEATURE_SAVE,
                        help="folder of the old features; if relative, below the repository, as the setting feature_save")
    args = parser.parse_args()
    args.feature_save = str(ROOT / args.feature_save)
    if not 0 < args.T <= 1:
        raise UserError(f"--T must be in (0, 1], found {args.T}")

    torch.set_num_threads(1)            # blocks are small: on a busy machine, threads wait for each other
    features, labels, source = load_features(args.feature_save, args.SD)
    some, own, rows = with_vector(features, labels, source)
    warn_about_order(some, own, source)
    mask = np.zeros(len(labels), bool)
    if len(rows) < len(labels):                     # perhaps classes have none; a class's marks do not depend on its number
        print(f"{len(labels) - len(rows)} of {len(labels)} images have no old vector: they are not credible")
        own = np.unique(own, return_inverse=True)[1]
    mask[rows] = credible(some, own, args.T, not args.no_column_norm, source)
    target = artefact(args.feature_save, args.SD, credible_kind(args.T))
    save_array(target, mask, origin_from(source) | {"T": args.T, "column_norm": not args.no_column_norm})
    print(f"{mask.sum()} of {len(mask)} images ({100 * mask.mean():.1f} %) are credible")
    print_written(target)


if __name__ == "__main__":
    run(main)
