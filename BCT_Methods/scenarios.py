"""The four data scenarios of an upgrade, as settings of the new model's run.

extended-class (EXclass): the old model saw 30 % of the identities, the new one sees all images;
extended-data (EXdata): it saw 30 % of each identity's images, the new one sees all;
open-class (OPclass): the new model sees the other 70 % of the identities;
open-data (OPdata): it sees the other 70 % of each identity's images.
"""

from easydict import EasyDict as edict

from old_model.names import credible_kind, part_of
from utils.paths import ROOT

# scenario -> (what the old model saw, what the new model sees)
SCENARIOS = {"EXclass": ("class30", "class100"), "EXdata": ("data30", "data100"),
             "OPclass": ("class30", "class70"), "OPdata": ("data30", "data70")}


def scenario(name: str, *, old: str, embedding_size: int, old_dim: int | None = None, new: str = "r50") -> edict:
    """Settings of a new model in scenario ``name``: EXclass, EXdata, OPclass or OPdata.

    old: network and loss of the old model, for example r18_softmax or r18_arc.  new: network of the new model.
    embedding_size: dimensions of both, or with ``old_dim`` of the new model.
    """
    old_part, new_part = SCENARIOS[name]
    start = f"f{old_dim or embedding_size}_{old}"
    sd = f"{start}_{new_part}"
    folder, rec = part_of(sd)
    config = edict(scenario=name, network=new, embedding_size=embedding_size, rec=rec,
                   old_model=str(ROOT / "work_dirs" / f"{start}_{old_part}" / "model.pt"),
                   old_feature=f"{folder}/{sd}_feature.npy",
                   credible=f"{folder}/{sd}_{credible_kind(0.9)}.npy",
                   prototypes=f"{folder}/{sd}_avg_feature.npy")
    if old_dim is not None:
        config.old_dim = old_dim
    return config
