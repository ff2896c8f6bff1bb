"""L2 and weakened L2: each new feature is pulled towards the old feature of the same image.

The baselines of Liang et al., "MixBCT: Towards Self-Adapting Backward-Compatible Training", arXiv 2308.06948.

    L = L_arc(f_n) + w * mean_i max(||^f_n,i - ^f_o,i||_2 - th, 0)
    w = 10;  th = 0 (L2), 0.2 (weakenedL2: a new feature may stay that far from the old one)

The norm, not its square.  If the old features have other dimensions (config.old_dim), v(f_n,i) takes the place of f_n,i in the
second term, v: the view of losses/view.py; L_arc stays that of the whole f_n.  The mean is over the images that
have an old vector.

    cd BCT_Methods/L2/ && python -m torch.distributed.launch --nproc_per_node=8 --nnodes=1 \
        --master_port=22222 train.py configs/OPclass_ms1mv3_r18_to_r50_L2_softmax_to_arc_f128.py
"""

import sys
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from engine.loop import main
from engine.method import Clock, Method
from losses import PartialFC, View
from losses.shards import mean_of_part
from old_model.features import OldFeatures, old_side
from old_model.sides import old_dim
from records.facts import Facts
from utils.settings import Settings


def beyond(new: Tensor, old: Tensor, threshold: float) -> Tensor:
    """max(||new - old||_2 - threshold, 0) per row, float32 [B]; new, old: unit rows [B, d]."""
    return ((new - old).norm(dim=1) - threshold).clamp(min=0)


class L2(Method):
    """Needs the old feature of every new training image."""

    def __init__(self, cfg: Settings, data: Facts):
        super().__init__(cfg, data)
        self.old = OldFeatures(**old_side(cfg, data, "old_feature"), dim=old_dim(cfg))
        self.view = View(cfg.embedding_size, old_dim(cfg), cfg.seed)

    def forward(self, head: PartialFC, new: Tensor, labels: Tensor, index: Tensor, clock: Clock) -> dict[str, Tensor]:
        old = self.old[index].to(new.device, non_blocking=True)
        distance = beyond(F.normalize(self.view(new)), old, self.cfg.threshold)
        return {"cls": head(new, labels), "l2": self.cfg.l2_weight * mean_of_part(distance, self.old.part(index, new.device))}


METHOD = L2

if __name__ == "__main__":
    main(METHOD)
