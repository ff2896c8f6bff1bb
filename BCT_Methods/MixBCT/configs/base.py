"""MixBCT's own settings."""

from easydict import EasyDict as edict

config = edict(
    mix_ratio=0.3,      # alpha: share of a rank's batch that is replaced by old features (38 of 128)
)
