"""A toy old side on disk, toy images and settings for the tests of the methods."""

from pathlib import Path

import numpy as np
import torch

from BCT_Methods.AdvBCT.train import AdvBCT
from BCT_Methods.BCT.train import BCT
from BCT_Methods.L2.train import L2
from BCT_Methods.MixBCT.train import MixBCT
from BCT_Methods.NCCL.train import NCCL
from BCT_Methods.UniBCT.train import UniBCT
from losses import CombinedMarginLoss, PartialFC
from records.faces import Faces
from records.facts import Facts
from utils.config import load_config
from utils.origin import save_array

ROOT = Path(__file__).resolve().parents[1]
METHODS = {"MixBCT": MixBCT, "UniBCT": UniBCT, "NCCL": NCCL, "BCT": BCT, "AdvBCT": AdvBCT, "L2": L2}
VARIANTS = METHODS | {"weakenedL2": L2}         # by the name in the file names of the configs
IMAGES, CLASSES, DIM, BATCH = 48, 7, 6, 10
DATA = Facts(IMAGES, CLASSES)
SCALE, M2, M3 = 8.0, 0.3, 0.1                  # of the toy head's margin: both kinds
# Settings of all cases that are not the defaults: a small scale, because a sample's loss is cut at 69; refinement in epoch 3.
START = {"UniBCT": {"refine_epoch": [3], "bct_scale": 12.0}, "BCT": {"bct_scale": 12.0}}
SD = "f128_r18_softmax_class70"                # the name that the OPclass configs read


def old_features() -> tuple[np.ndarray, np.ndarray]:
    """(raw features float32 [IMAGES, DIM], labels int64 in no order); class 6 has one image, class 0 an outlier.

    The classes are of different width: some of AdvBCT's radii are below 0.4, some above 0.9.
    """
    draw = np.random.default_rng(10)
    labels = draw.permutation(np.r_[np.arange(CLASSES), draw.integers(0, CLASSES - 1, IMAGES - CLASSES)])
    centres = draw.standard_normal((CLASSES, DIM))
    width = np.array([0.1, 0.2, 0.4, 0.8, 1.2, 1.6, 1.0])
    features = centres[labels] + width[labels, None] * draw.standard_normal((IMAGES, DIM))
    features[np.argmax(labels == 0)] *= -1
    return (features * draw.uniform(5, 20, (IMAGES, 1))).astype(np.float32), labels


def old_prototypes() -> np.ndarray:
    """float32 [CLASSES, DIM], as the file holds them: not the class means of the features, and not unit rows."""
    return (3 * np.random.default_rng(11).standard_normal((CLASSES, DIM))).astype(np.float32)


def credible_marks() -> np.ndarray:
    """bool [IMAGES]: 26 of 48 at random."""
    return np.random.default_rng(12).permutation(np.arange(IMAGES) < 26)


def old_classifier() -> torch.Tensor:
    """The old model's class vectors [5, DIM]: it knows the first five classes."""
    return 3 * torch.randn(5, DIM, generator=torch.Generator().manual_seed(13))


def absent_images() -> np.ndarray:
    """bool [IMAGES], True = without an old vector: all images of class 2, and every fifth other one."""
    return (old_features()[1] == 2) | (np.arange(IMAGES) % 5 == 0)


def leave_out_absent(folder: Path) -> Path:
    """Turn the old side in ``folder`` into one in which these images, and so a class, have no old vector."""
    start, present = folder / "OPclass" / SD, ~absent_images()
    features, prototypes = old_features()[0], old_prototypes()
    features[~present], prototypes[2] = 0, 0
    np.save(f"{start}_feature.npy", features)
    np.save(f"{start}_present.npy", present)
    save_array(Path(f"{start}_avg_feature.npy"), prototypes, {"classes_left_out": 1})
    return folder


def write_old_side(folder: Path) -> Path:
    """Write all files of the old model to ``folder``, its classifier to ``folder``/old."""
    start = folder / "OPclass" / SD
    start.parent.mkdir()
    features, labels = old_features()
    np.save(f"{start}_feature.npy", features)
    np.save(f"{start}_label.npy", labels)
    np.save(f"{start}_avg_feature.npy", old_prototypes())
    np.save(f"{start}_credible_ratio_90_feature.npy", credible_marks())
    (folder / "old").mkdir()
    for rank, rows in enumerate(old_classifier().split([3, 2])):
        torch.save({"weight": rows, "bias": torch.ones(len(rows)), "num_classes": 5}, folder / f"old/softmax_fc_gpu_{rank}.pt")
    return folder


def settings(name: str, folder: Path, **more):
    """The method's own settings, with those of ``more``; a name that is not a setting fails."""
    start = f"BCT_Methods/{VARIANTS[name].__name__}/configs/OPclass_ms1mv3_r18_to_r50_{name}"
    cfg = load_config(ROOT / f"{start}_softmax_to_arc_f128.py")
    assert more.keys() <= cfg.keys(), more
    toy = dict(feature_save=str(folder), old_model=None, embedding_size=DIM, fp16=False, workers=0, batch_size=BATCH)
    return cfg.replace(**toy | more)


def batches(count: int = 2, size: int = BATCH, dim: int = DIM) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches of new embeddings [size, dim], labels and index; no image is in two of them, and they are in no order."""
    labels, draw = torch.from_numpy(old_features()[1]), torch.Generator().manual_seed(14)
    index = torch.randperm(IMAGES, generator=draw)[:count * size].view(count, size)
    return [(3 * torch.randn(size, dim, generator=draw), labels[rows], rows) for rows in index]


def make_head(seed: int = 5, dim: int = DIM, **more) -> PartialFC:
    """Class vectors that are long enough for a decay to show."""
    head = PartialFC(CombinedMarginLoss(SCALE, 1.0, M2, M3), dim, CLASSES, seed=seed, **more)
    with torch.no_grad():
        head.weight.mul_(50)
    return head


def make_heads(cfg, method, **more) -> PartialFC:
    """The head of the settings' embeddings, with that of the view of DIM dimensions if the method has one."""
    head = make_head(dim=cfg.embedding_size, **more)
    if method.view_has_head and cfg.embedding_size != DIM:
        head.views = {DIM: make_head(8, **more)}
    return head


class Pictures(Faces):
    """Image i is noise that depends on i, with the label of the toy features.  asked: the batches that were read."""

    image_size = 4

    def __init__(self):
        self.asked = []

    def __len__(self) -> int:
        return IMAGES

    def labels(self) -> np.ndarray:
        return old_features()[1]

    def fill(self, images, rows):
        self.asked.append(list(rows))
        for image, row in zip(images, rows, strict=True):
            image[:] = np.random.default_rng(row).integers(0, 256, image.shape)
        return self.labels()[rows]


def pictures(index) -> torch.Tensor:
    """uint8 [B, 4, 4, 3]: the toy images ``index``."""
    return torch.stack([torch.from_numpy(np.random.default_rng(int(i)).integers(0, 256, (4, 4, 3))) for i in index]).byte()


def make_backbone(seed: int = 6, dim: int = DIM) -> torch.nn.Sequential:
    """A linear backbone [48 -> dim], which a loop can repeat; without BatchNorm."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, dim))


def embedded(images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Embeddings [B, DIM] of such a backbone, in the precision of its weight; images uint8 [B, 4, 4, 3]."""
    rows = [((image.permute(2, 0, 1).to(weight.dtype) - 127.5) / 127.5).flatten() for image in images]
    return torch.stack([weight @ row + bias for row in rows])


def make_method(name: str, folder: Path, **more):
    """(method, its settings); UniBCT is refined in epoch 3."""
    torch.manual_seed(16)
    more = START.get(name, {}) | more
    if "old_classifier" in more:
        more["old_classifier"] = str(folder / "old")
    cfg = settings(name, folder, **more)
    method = VARIANTS[name](cfg, DATA)
    method.start_epoch(3, make_backbone(dim=cfg.embedding_size), Pictures())
    return method, cfg
