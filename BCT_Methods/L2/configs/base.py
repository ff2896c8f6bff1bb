"""The settings of L2 and weakened L2."""

from easydict import EasyDict as edict

from utils.settings import number

config = edict(
    l2_weight=number(10.0, "w: weight of the mean distance, added to the classification loss", least=0),
    threshold=number(0.0, "th: distance of unit features that costs nothing; weakenedL2: 0.2", least=0, most=2),
)
