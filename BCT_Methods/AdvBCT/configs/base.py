"""AdvBCT's own settings: the public code's for faces (its landmark setting: threshold 1, both weights 1)."""

from easydict import EasyDict as edict

from utils.settings import number

config = edict(
    threshold=number(0.4, "T: distance of unit features towards which the learnt radii move", least=0, most=2),
    p2s_weight=number(4.0, "weight of the point-to-set term", least=0),
    adv_weight=number(4.0, "weight of the adversarial term, times (E + 1 - e) / E in epoch e of E", least=0),
)
