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

MAX_NUMBERS_SOLVED = 1 << 24        # numbers in the neighbour matrices that are solved at once (64 MB)


@torch.no_grad()
def refine(prototypes: Tensor, classes: slice, backbone: nn.Module, dataset, old: np.ndarray, *, batch_size: int,
           workers: int, present: Tensor | None = None, **how) -> None:
    """Overwrite ``prototypes`` [C_local, d], those of this rank's ``classes``, from all images of these classes.

    Each rank embeds the images of its own classes (un-flipped, backbone in eval mode, with its own BatchNorm statistics), so the
    ranks share the pass over the data.  Memory holds one block of whole classes.  old [N, d]: raw old features in record order.
    present: bool [N], False = an image without an old vector, which is left out.  A class without images gets a row of zeros.
    how: lamb, tau, as_published of :func:`refined`.
    """
    labels = dataset.labels()
    has_vector = np.ones(len(labels), bool) if present is None else present.numpy()
    images_here = np.flatnonzero((labels >= classes.start) & (labels < classes.stop) & has_vector)
    local = labels[images_here] - classes.start
    counts = np.bincount(local, minlength=len(prototypes))
    blocks = [(block, images_here[images]) for block, images, _ in class_blocks(local, counts)]
    batches = [rows[i:i + batch_size] for _, rows in blocks for i in range(0, len(rows), batch_size)]
    loader = iter(Loader(dataset, batches, batch_size, workers))
    backbone.eval()
    with tqdm(total=len(images_here), desc="refining prototypes", unit=" images",
              disable=None if dist.get_rank() == 0 else True) as bar:
        for block, rows in blocks:
            new, embedded = [], []
            for _ in range(0, len(rows), batch_size):
                images, _, index = next(loader)
                new.append(backbone(to_input(images, prototypes.device)))
                embedded.append(index)
                bar.update(len(images))
            # The loader replaces a corrupt record by another image, perhaps of another class: such rows are left out.
            right = torch.cat(embedded).numpy() == rows
            rows = rows[right]
            old_rows = torch.from_numpy(old[rows]).to(prototypes.device)
            new_rows = torch.cat(new)[torch.from_numpy(right).to(prototypes.device)]
            sizes = np.bincount(labels[rows] - classes.start - block.start, minlength=block.stop - block.start)
            prototypes[block] = refined(new_rows, old_rows, sizes, **how)


def refined(new: Tensor, old: Tensor, counts: np.ndarray, *, lamb: float, tau: float, as_published: bool) -> Tensor:
    """Prototypes [C, d] of classes: the rows of ``new`` and ``old`` [n, d] are in class order, counts[c] of class c.

    Classes of one size are solved together.  lamb: lambda; tau: temperature; see train.py for the equation.
    """
    out = old.new_zeros(len(counts), old.shape[1])
    starts = np.cumsum(counts) - counts
    for size in np.unique(counts[counts > 0]):
        alike = np.flatnonzero(counts == size)
        for chunk in np.array_split(alike, -(-len(alike) * size * size // MAX_NUMBERS_SOLVED)):
            rows = torch.from_numpy(starts[chunk][:, None] + np.arange(size)).to(new.device)
            out[chunk] = spread(new[rows], old[rows], lamb, tau, as_published)
    return out if as_published else F.normalize(out)


def spread(new: Tensor, old: Tensor, lamb: float, tau: float, as_published: bool) -> Tensor:
    """Mean row [k, d] of (1 - lambda) (I - lambda A)^-1 V_o, for k classes of n images: new, old [k, n, d].

    The mean is 1^T (I - lambda A)^-1 V_o: one solution of the transposed system instead of d of the system.
    """
    size = new.shape[1]
    if size == 1:
        return old[:, 0]
    new = new if as_published else F.normalize(new, dim=2)
    closeness = new @ new.mT / tau
    closeness.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    # dim 2: the weights of each image's neighbours sum to 1.  dim 1, the public code's: then 1^T A = 1^T and nothing moves.
    neighbours = closeness.softmax(1 if as_published else 2)
    system = torch.eye(size, device=new.device) - lamb * neighbours
    share = torch.linalg.solve(system.mT, torch.ones_like(system[:, :, :1]))
    return (1 - lamb) / size * (share * old).sum(1)
