"""BCT: the new features are also scored by a frozen classifier of the old feature space.

Shen et al., "Towards Backward-Compatible Representation Learning", CVPR 2020, arXiv 2003.11942.

    L = L_arc(f_n) + CE(bct_scale * ^f_n . ^p^T, y)
    p_c: mean old feature of class c on the new data, frozen

If the old features have other dimensions (config.old_dim), v(f_n) takes the place of f_n in the second term, v: the view of
losses/view.py; L_arc stays that of the whole f_n.  p_c is the mean over the images of c that have an old vector; a class without
any is left out of the second term, as a target and as another class.

config.old_classifier: as in the paper's influence loss, the old classifier's rows for the classes that it has, class means for
the others.

    cd BCT_Methods/BCT/ && python -m torch.distributed.launch --nproc_per_node=8 --nnodes=1 \
        --master_port=22222 train.py configs/OPclass_ms1mv3_r18_to_r50_BCT_softmax_to_arc_f128.py
"""

import logging
import sys
from pathlib import Path

from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from engine.loop import main
from engine.method import Clock, Method
from engine.model_files import load_classifier
from losses import PartialFC, PrototypeLoss, View
from old_model.features import classes_left_out, load_prototypes, old_side
from old_model.sides import old_dim
from records.facts import Facts
from utils.errors import UserError
from utils.paths import locate
from utils.settings import Settings


def old_prototypes(cfg: Settings, data: Facts, classes: slice) -> Tensor:
    """p of these classes, unit rows float32 [classes, d]: class means, or the old classifier's rows for classes that it has."""
    rows = load_prototypes(**old_side(cfg, data, "prototypes"), num_classes=data.classes, dim=old_dim(cfg),
                           classes=classes)
    if cfg.old_classifier is not None:
        if cfg.scenario not in ("EXclass", "EXdata", "OPdata"):
            raise UserError(f"config.old_classifier needs a config.scenario in which its identities are the new model's "
                            f"first ones (EXclass, EXdata, OPdata), found {cfg.scenario}; set it to None")
        known = load_classifier(locate(cfg.old_classifier, ROOT), old_dim(cfg))
        if len(known) > data.classes:
            raise UserError(f"config.old_classifier = {cfg.old_classifier} has {len(known)} classes, the training set "
                            f"only {data.classes}; name the folder of the old model of this scenario")
        rows[:len(known[classes])] = known[classes]
    return rows


class BCT(Method):
    """Needs the class means of the old features."""

    def __init__(self, cfg: Settings, data: Facts):
        super().__init__(cfg, data)
        self.view = View(cfg.embedding_size, old_dim(cfg), cfg.seed)
        self.influence = PrototypeLoss(old_dim(cfg), data.classes, cfg.bct_scale, cfg.fp16)
        self.start_prototypes(data)

    def start_prototypes(self, data: Facts) -> None:
        """Fill in the prototypes at the start of a run."""
        self.influence.prototypes.copy_(old_prototypes(self.cfg, data, self.influence.classes))
        empty = classes_left_out(old_side(self.cfg, data, "prototypes")["path"])
        self.influence.gaps = empty > 0
        if empty:
            logging.getLogger("bct").info("%d of %d classes have no old vector: they are left out of the second term", empty,
                                          data.classes)

    def forward(self, head: PartialFC, new: Tensor, labels: Tensor, index: Tensor, clock: Clock) -> dict[str, Tensor]:
        return {"cls": head(new, labels), "bct": self.influence(self.view(new), labels)}


METHOD = BCT

if __name__ == "__main__":
    main(METHOD)
