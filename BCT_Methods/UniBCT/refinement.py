"""UniBCT's prototypes: old features spread over the neighbourhoods of the new ones, once per class."""

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from old_model.statistics import class_blocks
from records.images import to_input
from records.loader import Loader

LARGEST = 1 << 24           # numbers in the neighbour matrices that are solved at once (64 MB)


@torch.no_grad()
def refine(prototypes: Tensor, classes: slice, backbone: nn.Module, dataset, old: np.ndarray, *, batch_size: int,
           workers: int, **how) -> None:
    """Overwrite ``prototypes`` [C_local, d], those of this rank's ``classes``, from all images of these classes.

    Each rank embeds the images of its own classes (un-flipped, backbone in eval mode, with its own BatchNorm statistics)
    and needs no other's: the pass over the data is shared, and memory holds one block of whole classes.  old [N, d]: raw
    old features in the order of the data set.  how: lamb, tau, as_published of :func:`refined`.
    """
    labels = dataset.labels()
    own = np.flatnonzero((labels >= classes.start) & (labels < classes.stop))
    counts = np.bincount(labels[own] - classes.start, minlength=len(prototypes))
    blocks = [(block, own[images]) for block, images, _ in class_blocks(labels[own] - classes.start, counts)]
    batches = [rows[i:i + batch_size] for _, rows in blocks for i in range(0, len(rows), batch_size)]
    loader = iter(Loader(dataset, batches, batch_size, workers))
    backbone.eval()
    with tqdm(total=len(own), desc="refining prototypes", unit=" images",
              disable=None if dist.get_rank() == 0 else True) as bar:
        for block, rows in blocks:
            new, found = [], []
            for _ in range(0, len(rows), batch_size):
                images, _, index = next(loader)
                new.append(backbone(to_input(images, prototypes.device)))
                found.append(index)
                bar.update(len(images))
            good = torch.cat(found).numpy() == rows         # another took the place of a bad record; it may be of another class
            rows = rows[good]
            of_old = torch.from_numpy(old[rows]).to(prototypes.device)
            of_new = torch.cat(new)[torch.from_numpy(good).to(prototypes.device)]
            left = np.bincount(labels[rows] - classes.start - block.start, minlength=block.stop - block.start)
            prototypes[block] = refined(of_new, of_old, left, **how)


def refined(new: Tensor, old: Tensor, counts: np.ndarray, *, lamb: float, tau: float, as_published: bool) -> Tensor:
    """Prototypes [C, d] of classes whose counts[c] rows of ``new`` and ``old`` [n, d] follow one another.

    Classes of one size are solved together.
    """
    out = old.new_zeros(len(counts), old.shape[1])
    starts = np.cumsum(counts) - counts
    for size in np.unique(counts[counts > 0]):
        alike = np.flatnonzero(counts == size)
        for some in np.array_split(alike, -(-len(alike) * size * size // LARGEST)):
            rows = torch.from_numpy(starts[some][:, None] + np.arange(size)).to(new.device)
            out[some] = spread(new[rows], old[rows], lamb, tau, as_published)
    return out if as_published else F.normalize(out)


def spread(new: Tensor, old: Tensor, lamb: float, tau: float, as_published: bool) -> Tensor:
    """Mean row [k, d] of (1 - lambda) (I - lambda A)^-1 V_o, for k classes of n images: new, old [k, n, d].

    The mean needs one solution of the transposed system, not d of the system itself: 1^T (I - lambda A)^-1 V_o.
    """
    size = new.shape[1]
    if size == 1:
        return old[:, 0]
    new = new if as_published else F.normalize(new, dim=2)
    closeness = new @ new.mT / tau
    closeness.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    # dim 2: each image's neighbours sum to 1.  dim 1, the public code's: then 1^T A = 1^T and nothing moves.
    neighbours = closeness.softmax(1 if as_published else 2)
    system = torch.eye(size, device=new.device) - lamb * neighbours
    share = torch.linalg.solve(system.mT, torch.ones_like(system[:, :, :1]))
    return (1 - lamb) / size * (share * old).sum(1)
