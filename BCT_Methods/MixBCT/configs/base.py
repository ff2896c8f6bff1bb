"""MixBCT's own settings."""

from easydict import EasyDict as edict

from utils.settings import number

config = edict(
    mix_ratio=number(0.3, "alpha: share of a rank's batch that is replaced by old features (38 of 128)", least=0, most=1),
)
