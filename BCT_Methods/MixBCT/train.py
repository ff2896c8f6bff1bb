"""MixBCT: one loss on a batch in which some new features are replaced by credible old ones.

Liang et al., "MixBCT: Towards Self-Adapting Backward-Compatible Training", arXiv 2308.06948.

    z_i = ^f_o,i  for i in R,   f_n,i  else;        L = L_arc(z)
    R: int(alpha * B) rows, drawn at random among the batch's credible ones (all of them if there are fewer)

Replacement within the batch, not interpolation: a replaced row sends no gradient to the backbone, the class
vectors are pulled by both, and the margin applies to old features too.

If the old features have other dimensions (config.old_dim), the mixed batch is in their space, with class vectors of its own:

    z_i = ^f_o,i  for i in R,   v(f_n,i)  else;     L = L_arc(f_n) + L_arc,view(z)

v: the view of losses/view.py.  L_arc,view is the loss of the head of the view, with the margin and scale of L_arc.  Both have
weight 1: each trains its own class vectors, and no gradient of L_arc reaches those of the old space.  All rows are in L_arc(f_n).
An image without an old vector is not credible.

    cd BCT_Methods/MixBCT/ && python -m torch.distributed.launch --nproc_per_node=8 --nnodes=1 \
        --master_port=22222 train.py configs/OPclass_ms1mv3_r18_to_r50_MixBCT_softmax_to_arc_f128.py
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from engine.loop import main
from engine.method import Clock, Method
from losses import PartialFC, View
from old_model.features import OldFeatures, load_credible, old_side
from old_model.sides import old_dim
from records.facts import Facts
from utils.seed import generator
from utils.settings import Settings


class MixBCT(Method):
    """Needs the old feature of every new training image and the credible marks."""

    view_has_head = True

    def __init__(self, cfg: Settings, data: Facts):
        super().__init__(cfg, data)
        self.old = OldFeatures(**old_side(cfg, data, "old_feature"), dim=old_dim(cfg))
        self.view = View(cfg.embedding_size, old_dim(cfg), cfg.seed)
        self.credible = load_credible(**old_side(cfg, data, "credible"))
        if self.old.present is not None:
            self.credible &= self.old.present

    def replaced(self, index: Tensor, clock: Clock) -> Tensor:
        """R: rows of the batch, int64 [int(alpha * B)] (all credible ones if fewer), on the CPU."""
        rows = self.credible[index].nonzero()[:, 0]
        draw = torch.randperm(len(rows), generator=generator(self.cfg.seed, "mix", dist.get_rank(), clock.step))
        return rows[draw[:int(self.cfg.mix_ratio * len(index))]]

    def forward(self, head: PartialFC, new: Tensor, labels: Tensor, index: Tensor, clock: Clock) -> dict[str, Tensor]:
        rows = self.replaced(index, clock)
        old = self.old[index[rows]].to(new.device, non_blocking=True)
        mixed = self.view(new).index_copy(0, rows.to(new.device, non_blocking=True), old)
        if self.view.whole:
            return {"cls": head(mixed, labels)}
        return {"cls": head(new, labels), "view": self.view.head(head)(mixed, labels)}


METHOD = MixBCT

if __name__ == "__main__":
    main(METHOD)
