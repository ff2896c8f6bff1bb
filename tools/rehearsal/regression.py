r"""Train a new model by a plain regression onto the old features: no classifier, no method.

    python tools/rehearsal/regression.py BCT_Methods/L2/configs/OPclass_ms1mv3_r18_to_r50_L2_softmax_to_arc_f128.py \
        output=work_dirs/regression

    L = mean_i ||^f_n,i - ^f_o,i||_2^2

It shows whether a data set is large enough to compare methods on it: if even this does not reach the figures of the old
model itself, it is too small.
"""

import sys
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from engine.loop import main
from engine.method import Clock, Method
from losses import PartialFC
from old_model.features import OldFeatures, old_side
from records.facts import Facts
from utils.settings import Settings


class Regression(Method):
    """Needs the old feature of every new training image."""

    def __init__(self, cfg: Settings, data: Facts):
        super().__init__(cfg, data)
        self.old = OldFeatures(**old_side(cfg, data, "old_feature"), dim=cfg.embedding_size)

    def forward(self, head: PartialFC, new: Tensor, labels: Tensor, index: Tensor, clock: Clock) -> dict[str, Tensor]:
        old = self.old[index].to(new.device, non_blocking=True)
        return {"distance": (F.normalize(new) - old).square().sum(1).mean()}


METHOD = Regression

if __name__ == "__main__":
    main(METHOD)
