"""The golden arrays: inputs and outputs of the public code, computed once (tests/golden/README.md)."""

import zlib

import numpy as np
import torch
import torch.distributed as dist
from folders import golden_folder


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of NAME.npz in the golden folder."""
    with np.load(golden_folder() / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def near(found, expected, share: float) -> None:
    """Assert equal shapes and max |found - expected| <= share * max |expected|."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= share * max(np.abs(expected).max(), 1e-30)


def ruled(state: dict, gain: float) -> dict:
    """The weight rule of the golden folder: each tensor of ``state`` is a function of its key, its shape and ``gain``."""
    out = {}
    for key, old in state.items():
        shape = tuple(old.shape)
        n = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape).astype(np.float32)
        if key.endswith("num_batches_tracked"):
            value = np.zeros(shape, np.int64)
        elif key.endswith("running_mean"):
            value = 0.05 * n
        elif key.endswith("running_var"):
            value = 1 + 0.2 * np.abs(n)
        elif key.endswith(".weight") and len(shape) >= 2:
            value = np.float32(gain / np.sqrt(np.prod(shape[1:]))) * n
        elif len(shape) >= 2 or key.endswith(".bias"):
            value = 0.05 * n
        elif key.removesuffix("weight") + "bias" in state:
            value = 1 + 0.1 * n
        else:
            value = 0.25 + 0.1 * n
        out[key] = torch.from_numpy(np.asarray(value, np.int64 if value.dtype == np.int64 else np.float32))
    return out


def rows_of_this_rank(array: np.ndarray) -> torch.Tensor:
    """This rank's rows of a global batch."""
    return torch.from_numpy(array).chunk(dist.get_world_size())[dist.get_rank()].clone()
