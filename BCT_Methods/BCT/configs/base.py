"""BCT's own settings."""

from easydict import EasyDict as edict

config = edict(
    bct_scale=64.0,     # scale of the cosines with the prototypes; 1 = as published: almost no repulsion
)
