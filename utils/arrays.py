""".npy, .npz and .pt files of other people: nothing in them is executed, and none asks for more memory than it fills."""

import zipfile
from pathlib import Path

import numpy as np
import torch

PACKED, SMALL = 20, 1 << 24 # a member of an .npz may unpack to so many times its size in the file, or to so many bytes


def open_npy(path: Path, mode: str = "r") -> np.ndarray:
    """The numbers or booleans of a .npy, memory-mapped; at least one of them, in at least one dimension.

    Raises ValueError, in words that follow "is not a whole .npy file", for anything else: also when the file is longer or
    shorter than its header says.
    """
    try:
        with np.errstate(over="ignore"):
            array = np.lib.format.open_memmap(path, mode)
    except Exception as error:      # numpy reads the header with Python's tokenizer and parser: any of their errors
        raise ValueError(one_line(error)) from error
    expected, found = array.offset + array.nbytes, Path(path).stat().st_size
    if array.dtype.kind not in "biuf" or array.itemsize > 8 or not array.dtype.isnative:
        raise ValueError(f"it holds {array.dtype} instead of numbers in this machine's order of bytes")
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"it holds no rows, {list(array.shape)}")
    if found != expected:
        raise ValueError(f"its header promises {expected} bytes, it has {found}")
    return array


def read_npz(path: Path, names) -> dict[str, np.ndarray]:
    """The arrays (numbers, booleans or text) of ``names`` that the .npz has.

    Raises ValueError, in words that follow "is no .npz", for anything else.  A member is unpacked only when its header
    and the zip's directory agree on its size, and when that is no more than PACKED times what it has in the file.
    """
    try:
        with zipfile.ZipFile(path) as file:
            members = {info.filename.removesuffix(".npy"): info for info in file.infolist()}
            return {name: read_member(file, info) for name, info in members.items() if name in names}
    except Exception as error:      # as above, and those of zipfile and its decompressors
        raise ValueError(one_line(error)) from error


def read_member(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.file_size > max(PACKED * info.compress_size, SMALL):
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
    """What torch.save wrote, tensors only, on the CPU, memory-mapped where the format allows it.

    Raises any of torch's errors; ValueError where a byte of a tensor is another than the one that was written.
    """
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as file:
            if any(info.compress_type != zipfile.ZIP_STORED for info in file.infolist()):
                raise ValueError("it is packed, which torch.save does not do: it could unpack to anything")
            if file.testzip():
                raise ValueError("the checksum of a tensor differs")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
