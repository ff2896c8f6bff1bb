"""AdvBCT: new features in elastic balls around the old classes, and a discriminator that cannot tell new from old.

Pan et al., "Boundary-Aware Backward-Compatible Representation via Adversarial Learning in Image Retrieval",
CVPR 2023, arXiv 2305.02610.

    L = L_arc + p2s_weight * L_p2s + adv_weight * (E - e + 1) / E * L_adv
    L_p2s = mean over the samples that violate it of (||^f_n - c_y||_2 - r_y)_+
    L_adv = NLL(D(GRL_a(^f_n)), new) + NLL(D(^f_o), old)
    r_k: r_max moved towards T by sigmoid(v_k) |r_max - T|, v_k learnt;  c_k, r_max: old_model.statistics.class_balls
    D = Linear(d, 100) - BatchNorm - ReLU - Linear(100, 2) - LogSoftmax;  a = 2 / (1 + exp(-10 p)) - 1, p in [0, 1)

If the old features have other dimensions (config.old_dim), v(f_n) takes the place of f_n in L_p2s and L_adv, v: the view of
losses/view.py; L_arc stays that of the whole f_n.  Balls are of the images that have an old vector, L_adv is
of those on both sides; it is 0 in a step with fewer than two.

    cd BCT_Methods/AdvBCT/ && python -m torch.distributed.launch --nproc_per_node=8 --nnodes=1 \
        --master_port=22222 train.py configs/OPclass_ms1mv3_r18_to_r50_AdvBCT_softmax_to_arc_f128.py
"""

import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from engine.loop import main
from engine.method import Clock, Method
from losses import PartialFC, View
from losses.shards import GatherForAll, all_rows
from old_model.features import OldFeatures, load_labels, old_side
from old_model.sides import old_dim
from old_model.statistics import shared_class_balls
from records.facts import Facts
from utils.seed import generator
from utils.settings import Settings

NEW, OLD = 0, 1             # the discriminator's two answers


class Reverse(torch.autograd.Function):
    """GRL_a: the identity; its gradient is multiplied by -a: D learns to tell new from old, the backbone to deceive it."""

    @staticmethod
    def forward(ctx, features: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return -ctx.strength * grad, None


class AdvBCT(Method):
    """Needs the old feature of every new training image.  Every rank computes both terms on all ranks' rows."""

    def __init__(self, cfg: Settings, data: Facts):
        super().__init__(cfg, data)
        self.old = OldFeatures(**old_side(cfg, data, "old_feature"), dim=old_dim(cfg))
        self.view = View(cfg.embedding_size, old_dim(cfg), cfg.seed)
        labels = load_labels(**old_side(cfg, data, "old_feature"), num_classes=data.classes)
        centres, radii, kept = shared_class_balls(self.old.rows, labels, data.classes, self.old.present)
        self.centres: Tensor
        self.radii: Tensor
        self.is_ball: Tensor
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("radii", radii, persistent=False)
        self.register_buffer("is_ball", kept > 1, persistent=False)     # one distance is no radius
        draw = generator(cfg.seed, "elastic radius")
        self.elastic = nn.Parameter(torch.rand(data.classes, generator=draw) * 2 - 1)        # v
        self.discriminator = nn.Sequential(nn.Linear(old_dim(cfg), 100), nn.BatchNorm1d(100), nn.ReLU(),
                                           nn.Linear(100, 2), nn.LogSoftmax(dim=1))

    def point_to_set(self, new: Tensor, labels: Tensor) -> Tensor:
        """L_p2s of unit features [N, d]; 0 with a gradient of 0 if no row violates it."""
        radius = self.radii[labels]
        radius = radius + (self.cfg.threshold - radius) * self.elastic[labels].sigmoid()
        outside = ((new - self.centres[labels]).norm(dim=1) - radius).clamp(min=0) * self.is_ball[labels]
        return outside.sum() / outside.count_nonzero().clamp(min=1)

    def adversarial(self, new: Tensor, old: Tensor, progress: float) -> Tensor:
        """L_adv of unit features [N, d]."""
        if len(old) < 2:                # BatchNorm needs two rows, and DDP a gradient of every parameter
            return 0 * (new.sum() + sum(parameter.sum() for parameter in self.discriminator.parameters()))
        strength = 2 / (1 + math.exp(-10 * progress)) - 1
        guess_new, guess_old = self.discriminator(Reverse.apply(new, strength)), self.discriminator(old)
        return -guess_new[:, NEW].mean() - guess_old[:, OLD].mean()

    def forward(self, head: PartialFC, new: Tensor, labels: Tensor, index: Tensor, clock: Clock) -> dict[str, Tensor]:
        cfg = self.cfg
        old = all_rows(self.old[index].to(new.device, non_blocking=True))
        everyone = GatherForAll.apply(F.normalize(self.view(new)))
        used, part = everyone, self.old.part(index, new.device)
        if part is not None:
            rows = all_rows(part)
            used, old = everyone[rows], old[rows]
        fading = (cfg.num_epoch - clock.epoch + 1) / cfg.num_epoch
        return {"cls": head(new, labels),
                "p2s": cfg.p2s_weight * self.point_to_set(everyone, all_rows(labels)),
                "adv": cfg.adv_weight * fading * self.adversarial(used, old, clock.progress)}


METHOD = AdvBCT

if __name__ == "__main__":
    main(METHOD)
