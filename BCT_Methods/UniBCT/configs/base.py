"""UniBCT's own settings."""

from easydict import EasyDict as edict

config = edict(
    bct_scale=64.0,             # scale of the cosines with the prototypes
    refine_epoch=[10, 20],      # prototypes are refined when these epochs (from 0) begin; no second term before the first
    lamb=0.9,                   # lambda in [0, 1): how far old features spread to neighbours; 0 = plain class means
    tau=0.05,                   # temperature of the neighbours' weights, in cosines
    as_published=False,         # the public code's reading: a refinement without effect, scale 1
)
