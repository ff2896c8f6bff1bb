"""The settings of L2 and weakened L2."""

from easydict import EasyDict as edict

config = edict(
    l2_weight=10.0,     # w: weight of the mean distance beside the classification loss
    threshold=0.0,      # th: distance of unit features that costs nothing; weakenedL2: 0.2
)
