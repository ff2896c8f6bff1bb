"""AdvBCT's own settings: the public code's for faces (its landmark setting: threshold 1, both weights 1)."""

from easydict import EasyDict as edict

config = edict(
    threshold=0.4,      # T: distance of unit features towards which the learnt radii move
    p2s_weight=4.0,     # weight of the point-to-set term
    adv_weight=4.0,     # weight of the adversarial term, times (E + 1 - e) / E in epoch e of E
)
