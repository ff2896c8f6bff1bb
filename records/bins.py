"""Verification sets (.bin files such as lfw, cfp_fp, agedb_30): pickles, read without executing anything in them."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from records.images import decode
from utils.errors import UserError
from utils.opencv import cv2

MAX_PAIRS = 1 << 15                     # pairs of a verification set: the largest in use has 7,000
NUMBER_TYPES = [f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)] + ["f4", "f8"]
# The opcodes that are read as Python's own unpickler reads them; ArraysOnly adds four.  Left out: those that call, import,
# hash, or allocate by a number in the file.
OPCODES = [getattr(pickle, name)[0] for name in (
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 GLOBAL STACK_GLOBAL "
    "PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET").split()]


class Name(str):
    """What a pickle asks for by module and name: it is compared, never looked up."""


class Array:
    """A flat numpy array of a pickle.  ``data``: a list of Python's objects, or numbers; None until they have been read."""

    def __init__(self, data=None, kind=None, shape=None, _order=None):
        self.data = None if data is None else elements(shape, kind, data)


class ArraysOnly(pickle._Unpickler):
    """Reads pickles of lists, tuples, bytes, booleans, numbers and flat numpy arrays of them; calls nothing that a file names."""

    stack: list                         # of the objects read so far; pickle._Unpickler sets it and ``read``
    read: Callable[[int], bytes]

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="bytes")
        self.room = len(data)           # bytes that may still be made of text: a file can ask for the same text many times

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {code: pickle._Unpickler.dispatch[code] for code in OPCODES}

    def find_class(self, module: str, name: str) -> Name:
        return Name(name if module.split(".")[0] == "numpy" else f"{module}.{name}")

    def reduce(self) -> None:
        """What numpy's arrays, their types, single booleans, and bytes in protocol 2 are made of."""
        arguments, name = self.stack.pop(), self.stack.pop()
        if name == "_codecs.encode" and text(arguments[1]) in ("latin1", "latin-1"):
            made = arguments[0].encode("latin-1")
            self.room -= len(made)
            if self.room < 0:
                raise pickle.UnpicklingError("it makes more bytes than it has")
        elif name == "_reconstruct":
            made = Array()
        elif name == "dtype":
            made = Name(text(arguments[0]))
        elif name == "_frombuffer":
            made = Array(*arguments)
        elif name == "scalar":
            made = elements((1,), *arguments)[0]
        else:
            raise pickle.UnpicklingError(f"it asks for {str(name)[:80]!r}")
        self.stack.append(made)

    def build(self) -> None:
        """The contents of an array.  The state of a type is ignored: it is the order of bytes, and one byte has none."""
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, Array):
            _, shape, kind, _, data = state
            made.data = elements(shape, kind, data)

    def bytes_of_protocol_5(self) -> None:
        self.stack.append(self.read(int.from_bytes(self.read(8), "little")))

    dispatch |= {pickle.REDUCE[0]: reduce, pickle.BUILD[0]: build, pickle.BYTEARRAY8[0]: bytes_of_protocol_5}


def text(value) -> str:
    """``value`` as text: Python 2 wrote names as bytes."""
    return value.decode("ascii") if isinstance(value, bytes) else value


def elements(shape: tuple, kind: Name, data: Any) -> list | np.ndarray:
    """The elements of a flat array: a list of Python's objects, or numbers over the bytes of the pickle, without a copy."""
    made: list | np.ndarray
    if kind == "O8" and isinstance(data, list):
        made = data
    elif kind in ("b1", *NUMBER_TYPES) and isinstance(data, bytes):
        made = np.frombuffer(data, kind)
    else:
        raise pickle.UnpicklingError(f"it holds an array of {str(kind)[:80]!r}")
    if shape not in ((len(made),), (len(made), 1), (1, len(made))):
        raise pickle.UnpicklingError("it holds an array of another shape than its contents")
    return made


def load_bin(path: Path, image_size: int) -> tuple[Tensor, np.ndarray]:
    """(images uint8 [2P, S, S, 3] RGB, same bool [P]) of a verification .bin; pair i is images 2i and 2i + 1.

    image_size: S, pixels; images of another size are resized.  UserError for anything that is not such a file.
    """
    try:
        bins, same = map(items, ArraysOnly(path.read_bytes()).load())
        bytes_only = all(isinstance(item, bytes) or isinstance(item, np.ndarray) and item.dtype == np.uint8 for item in bins)
        if not bytes_only or not all(item in (True, False) for item in same):
            raise ValueError("it holds other things than encoded images and booleans")
    except Exception as error:                          # a corrupt pickle can end in any of Python's errors
        reason = f"opcode {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise UserError(f"{path} is not a verification file ({reason}); expected a pickle of (encoded images, "
                        f"same or not); copy it again") from error
    if len(bins) != 2 * len(same) or not 10 <= len(same) <= MAX_PAIRS:
        raise UserError(f"{path} has {len(bins)} images for {len(same)} pairs; expected two images a pair, and 10 to "
                        f"{MAX_PAIRS} pairs; make the file again")
    images = np.empty((len(bins), image_size, image_size, 3), np.uint8)
    for i, item in enumerate(bins):
        try:
            image = decode(item)
        except ValueError as error:
            raise UserError(f"{path}: item {i} is not an image that OpenCV can decode ({error}); make the file again") from error
        if image.shape[:2] != (image_size, image_size):
            image = cv2.resize(image, (image_size, image_size), interpolation=cv2.INTER_AREA)
        images[i] = image
    return torch.from_numpy(images), np.array(same, bool)


def items(value) -> list:
    """The items of a list, a tuple or an array; an item that is an array is replaced by what it holds."""
    value = value.data if isinstance(value, Array) else value
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise ValueError(f"it holds {type(value).__name__} instead of a list")
    return [item.data if isinstance(item, Array) else item for item in value]
