"""BCT's own settings."""

from easydict import EasyDict as edict

from utils.settings import number

config = edict(
    bct_scale=number(64.0, "scale of the cosines with the prototypes; 1 = as published: almost no repulsion", above=0),
)
