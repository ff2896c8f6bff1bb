"""Mark the credible old features: per class the share T of them that lies nearest to the class mean (MixBCT).

    python tools/get_feature/denoise_credible.py --T 0.9 --SD f128_r18_softmax_class70

reads feature_save/OPclass/<SD>_{feature,label}.npy and writes <SD>_credible_ratio_90_feature.npy, bool
[images], True = may stand in for the new feature.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from utils.classes import blocks_in_order, class_counts, class_order
from utils.errors import UserError, run
from utils.old_features import FEATURE_SAVE, artefact, credible_kind, load_features, load_origin, save_array


def credible(features: np.ndarray, labels: np.ndarray, share: float, column_norm: bool = True,
             source="labels") -> np.ndarray:
    """bool [N]: per class of n images the ceil(share * n) nearest to the class mean are True.

    features [N, d], labels int64 [N] in any order; source names them in messages.  Rows are L2-normalised,
    then (column_norm) each column over the whole set, as the public tool does.
    """
    counts, of = class_counts(labels, source), torch.tensor(labels)
    sums, squares = torch.zeros(len(counts), features.shape[1], dtype=torch.float64), 0
    for rows, block in blocks_in_order(features, unit=True, words="means"):
        sums.index_add_(0, of[rows], block)
        squares = squares + block.norm(dim=0).square()
    scale = squares.sqrt().clamp_min(1e-12) if column_norm else torch.ones_like(squares)
    means = sums / torch.from_numpy(counts)[:, None]
    distance = torch.empty(len(labels), dtype=torch.float64)
    for rows, block in blocks_in_order(features, unit=True, words="distances"):
        distance[rows] = block.sub_(means[of[rows]]).div_(scale).norm(dim=1)
    nearest_first = class_order(labels, distance.numpy())
    # ceil(share * n) of the decimal that the user wrote: 0.56 * 25 is 14, not 14.000000000000002.
    keep = np.array([math.ceil(round(share * int(n), 6)) for n in counts])
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    mask = np.zeros(len(labels), bool)
    mask[nearest_first] = place < np.repeat(keep, counts)
    return mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--SD", required=True, help="source and data: <old config's start>_<class70, data100, ...>")
    parser.add_argument("--T", type=float, default=0.9, help="share of each class that is kept, in (0, 1]")
    parser.add_argument("--no-column-norm", action="store_true",
                        help="leave out the second normalisation, of each column over the whole set")
    parser.add_argument("--feature-save", default=FEATURE_SAVE, help="folder of the old features")
    args = parser.parse_args()
    if not 0 < args.T <= 1:
        raise UserError(f"--T must be in (0, 1], found {args.T}")

    torch.set_num_threads(1)            # the blocks are small: on a busy machine threads would wait for each other
    features, labels, source = load_features(args.feature_save, args.SD)
    mask = credible(features, labels, args.T, not args.no_column_norm, source)
    target = artefact(args.feature_save, args.SD, credible_kind(args.T))
    save_array(target, mask, load_origin(source) | {"T": args.T, "column_norm": not args.no_column_norm})
    print(f"{target}: {mask.sum()} of {len(mask)} images ({100 * mask.mean():.1f} %) are credible")


if __name__ == "__main__":
    run(main)
