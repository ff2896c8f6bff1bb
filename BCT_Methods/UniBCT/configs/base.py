"""UniBCT's own settings."""

from easydict import EasyDict as edict

from utils.settings import flag, number, several, whole

config = edict(
    bct_scale=number(64.0, "scale of the cosines with the prototypes", above=0),
    refine_epoch=several([10, 20], "prototypes are refined at the start of these epochs (from 0); no second term before",
                         whole(0, "epoch")),
    lamb=number(0.9, "lambda: how far old features spread to neighbours; 0 = plain class means", least=0, below=1),
    tau=number(0.05, "temperature of the neighbours' weights, in cosines", above=0),
    as_published=flag(False, "the public code's reading: a refinement without effect, scale 1"),
)
