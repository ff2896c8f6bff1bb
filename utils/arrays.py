""".npy, .npz and .pt files of other people: read without executing anything in them or allocating more than they hold."""

import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch

MAX_EXPANSION = 20          # how many times its size in the file a member of an .npz may have when it is unpacked ...
MAX_SMALL_MEMBER = 1 << 24  # ... unless it has no more bytes than this (16 MiB)


class ChosenRows:
    """The rows ``numbers`` of an array [N, d], in that order; each is read when it is asked for."""

    def __init__(self, array: np.ndarray, numbers: np.ndarray):
        self.array, self.numbers, self.shape = array, numbers, (len(numbers), array.shape[1])

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows) -> np.ndarray:
        return self.array[self.numbers[rows]]


def open_npy(path: Path, mode: Literal["r", "r+"] = "r", text: bool = False) -> np.memmap:
    """The numbers or booleans of a .npy, memory-mapped; at least one of them, in at least one dimension.  text: accept text, too.

    Raises ValueError, in words that follow "is not a whole .npy file", for anything else, also for a file that is longer or
    shorter than its header says.
    """
    try:
        with np.errstate(over="ignore"):
            array = np.lib.format.open_memmap(path, mode)
    except Exception as error:      # numpy parses the header with Python's parser, which raises many errors
        raise ValueError(one_line(error)) from error
    expected, size = array.offset + array.nbytes, Path(path).stat().st_size
    if not (text and array.dtype.kind in "SU") and (array.dtype.kind not in "biuf" or array.itemsize > 8) \
            or not array.dtype.isnative:
        raise ValueError(f"it holds {array.dtype} instead of numbers in this machine's order of bytes")
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"it holds no rows, {list(array.shape)}")
    if size != expected:
        raise ValueError(f"its header promises {expected} bytes, it has {size}")
    return array


def read_npz(path: Path, names) -> dict[str, np.ndarray]:
    """{name: array of numbers, booleans or text} for those of ``names`` that the .npz has.

    Raises ValueError, in words that follow "is not an .npz", for anything else.  A member is unpacked only if its header and
    the directory of the zip agree on its size, and if that is within MAX_EXPANSION or MAX_SMALL_MEMBER.
    """
    try:
        with zipfile.ZipFile(path) as file:
            members = {info.filename.removesuffix(".npy"): info for info in file.infolist()}
            return {name: read_member(file, info) for name, info in members.items() if name in names}
    except Exception as error:      # as above, and the errors of zipfile and its decompressors
        raise ValueError(one_line(error)) from error


def read_member(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """The array in one member of an .npz; ValueError as for :func:`read_npz`."""
    if info.file_size > max(MAX_EXPANSION * info.compress_size, MAX_SMALL_MEMBER):
        raise ValueError(f"{info.filename} unpacks from {info.compress_size} to {info.file_size} bytes")
    with file.open(info) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
        promised = member.tell() + dtype.itemsize * int(np.prod([int(n) for n in shape], dtype=object))
        if dtype.kind not in "biufU" or promised != info.file_size or min(shape, default=0) < 0:
            raise ValueError(f"{info.filename} holds {dtype} {list(shape)} in {info.file_size} bytes")
    with file.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def load_pt(path: Path):
    """What torch.save wrote, tensors only, on the CPU, memory-mapped if the format allows it.

    Raises any of torch's errors; ValueError if the file is packed, or if a tensor does not have its checksum.
    """
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as file:
            if any(info.compress_type != zipfile.ZIP_STORED for info in file.infolist()):
                raise ValueError("it is compressed, which torch.save does not do: it could unpack to any size")
            if file.testzip():
                raise ValueError("the checksum of a tensor differs")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def one_line(error: Exception) -> str:
    """Type and first line of an error, for a message."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
