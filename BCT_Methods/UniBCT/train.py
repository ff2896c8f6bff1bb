"""UniBCT: BCT with prototypes that are refined by the structure of the new features, class by class.

Zhang et al., "Towards Universal Backward-Compatible Representation Learning", IJCAI 2022, arXiv 2203.01583.

    L = L_arc(f_n) + w_e * CE(bct_scale * ^f_n . p^T, y);        w_e = 0 before the first refinement, then 1
    per class of n images:  A = row-wise softmax(^V_n ^V_n^T / tau) without the diagonal
                            V' = (1 - lambda) (I - lambda A)^-1 V_o,      p = mean of the rows of V', normalised
    V_n, V_o [n, d]: new and old features of the class's images; refined at the start of the epochs 10 and 20

If the old features have other dimensions (config.old_dim), v(f_n) takes the place of f_n in the second term, v: the view of
losses/view.py; L_arc and the neighbourhoods, A, stay those of the whole f_n.  Only images that have an old vector are in V_n and
V_o; a class without any is left out of the second term, as a target and as another class.

as_published: raw dot products, softmax over columns (which makes p exactly the plain mean), p not normalised, scale 1.

    cd BCT_Methods/UniBCT/ && python -m torch.distributed.launch --nproc_per_node=8 --nnodes=1 \
        --master_port=22222 train.py configs/OPclass_ms1mv3_r18_to_r50_UniBCT_softmax_to_arc_f128.py
"""

import sys
from pathlib import Path

from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from BCT_Methods.BCT.train import BCT
from BCT_Methods.UniBCT.refinement import refine
from engine.loop import main
from engine.method import Clock, Method
from losses import PartialFC
from old_model.features import OldFeatures, old_side
from old_model.sides import old_dim
from records.facts import Facts
from utils.errors import UserError
from utils.settings import Settings


class UniBCT(BCT):
    """Needs the old feature of every new training image; the first refinement makes the prototypes."""

    def __init__(self, cfg: Settings, data: Facts):
        super().__init__(cfg, data)
        if min(cfg.refine_epoch, default=cfg.num_epoch) >= cfg.num_epoch:
            raise UserError(f"config.refine_epoch = {cfg.refine_epoch} must list epochs from 0 of which the first is below "
                            f"config.num_epoch = {cfg.num_epoch}: before it there is no second term")
        self.old = OldFeatures(**old_side(cfg, data, "old_feature"), dim=old_dim(cfg))
        self.influence.gaps = self.old.present is not None
        if cfg.as_published:
            self.influence.scale = 1.0

    def start_prototypes(self, data: Facts) -> None:
        """The prototypes stay zero until the first refinement."""

    def start_epoch(self, epoch: int, backbone: nn.Module, dataset) -> None:
        if epoch in self.cfg.refine_epoch:
            cfg = self.cfg
            refine(self.influence.prototypes, self.influence.classes, backbone, dataset, self.old.rows,
                   batch_size=cfg.batch_size, workers=cfg.workers, lamb=cfg.lamb, tau=cfg.tau,
                   as_published=cfg.as_published, present=self.old.present)

    def forward(self, head: PartialFC, new: Tensor, labels: Tensor, index: Tensor, clock: Clock) -> dict[str, Tensor]:
        if clock.epoch < min(self.cfg.refine_epoch):
            terms = Method.forward(self, head, new, labels, index, clock)
            # w_e = 0: a learnt view has a gradient of 0, because DDP waits for one of every parameter.
            return terms | {"bct": 0 * self.view(new).sum()} if self.view.learnt else terms
        return super().forward(head, new, labels, index, clock)


METHOD = UniBCT

if __name__ == "__main__":
    main(METHOD)
