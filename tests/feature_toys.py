"""A toy training on features: new features of 9 dimensions of the toy images of method_toys, whose old ones have 6."""

from pathlib import Path

import numpy as np
from method_toys import DIM, IMAGES, M2, M3, ROOT, SCALE, VARIANTS, old_features, write_old_side

from engine import loop
from engine.signals import StopSignal
from evaluation.map_files import save_map
from evaluation.map_forms import Map
from evaluation.maps import BACKWARD, Fitted
from losses import PartialFC
from utils.config import load_config

D_IN, HIDDEN = 9, 256


def new_features() -> np.ndarray:
    """Raw features float32 [IMAGES, D_IN] that depend linearly on the old ones, of any norm."""
    draw = np.random.default_rng(20)
    old = old_features()[0]
    rows = old / np.linalg.norm(old, axis=1, keepdims=True) @ draw.standard_normal((DIM, D_IN))
    return ((rows + 0.1 * draw.standard_normal(rows.shape)) * draw.uniform(1, 9, (IMAGES, 1))).astype(np.float32)


def write_features(folder: Path) -> Path:
    """The old side, and the new features with their labels, in ``folder``/OPclass."""
    write_old_side(folder)
    np.save(folder / "OPclass/new_feature.npy", new_features())
    np.save(folder / "OPclass/new_label.npy", old_features()[1])
    return folder


def first_map(hidden: bool) -> Map:
    """A map [D_IN] -> [DIM] with all parts unlike zero."""
    draw = np.random.default_rng(21)
    shapes = [(D_IN, DIM), (DIM,), (D_IN, HIDDEN), (HIDDEN,), (HIDDEN, DIM)]
    w, b, *parts = (0.3 * draw.standard_normal(shape).astype(np.float32) for shape in shapes)
    return Map(w, b, tuple(parts) if hidden else None)


def write_first_map(file: Path, hidden: bool = False, direction: str = BACKWARD) -> Path:
    save_map(file, Fitted("ridge", first_map(hidden), "none", 0.1, 0.9, IMAGES, 0.0), direction)
    return file


def settings_list(name: str, folder: Path, output: Path, *more: str) -> list[str]:
    """Arguments of the training script, the config first: four batches of 12 in each of two epochs."""
    start = f"BCT_Methods/{VARIANTS[name].__name__}/configs/OPclass_ms1mv3_r18_to_r50_{name}"
    toy = [f"feature_save={folder}", "rec=OPclass/new_feature.npy", "network=linear", "old_model=None", f"embedding_size={DIM}",
           "fp16=False", "batch_size=12", "num_epoch=2", f"margin_list=(1.0,{M2},{M3})", f"scale={SCALE}", "lr=0.05",
           "weight_decay=0.01", "clip=1e9", "lr_power=0", f"output={output}", "frequent=1000"]
    return [str(ROOT / f"{start}_softmax_to_arc_f128.py"), *toy, *more]


def train(name: str, folder: Path, output: Path, *more: str) -> Path:
    """Train in this process, on one rank; the output folder."""
    config, *overrides = settings_list(name, folder, output, *more)
    with StopSignal() as stop:
        loop.train(load_config(config, overrides), VARIANTS[name], PartialFC, stop)
    return output
