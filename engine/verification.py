"""Accuracy on pairs of aligned faces (lfw, cfp_fp, agedb_30 ... as .bin), ten folds, during training.

The figure is insightface's: features of the image and of its mirror image are added and normalised, a pair
is called the same below a squared distance that is chosen on nine folds and judged on the tenth.
"""

import io
import pickle
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.distributed import Ranks
from utils.errors import UserError
from utils.images import decode, to_input

THRESHOLDS = np.arange(0, 4, 0.01)      # squared distances of unit features
PAIRS = 1 << 15                         # of a verification set: the largest in use has 7,000
NUMBERS = [f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)] + ["f4", "f8"]


class Name(str):
    """What a pickle asks for by module and name: never looked up, only compared."""


class Array:
    """A flat numpy array of a pickle: ``data`` is a list of Python's objects or numbers, once it has come."""

    def __init__(self, data=None, kind=None, shape=None, _order=None):
        self.data = None if data is None else elements(shape, kind, data)


class ArraysOnly(pickle._Unpickler):
    """Reads pickles of lists, bytes, booleans, numbers and flat numpy arrays of them; nothing that a file names is called.

    Python's own unpickler, without the opcodes that call, import, hash or allocate by a number in the file.
    """

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="bytes")
        self.room = len(data)           # for bytes that are made of text; the same text can be made bytes again and again

    dispatch = {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in (
        "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT "
        "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
        "EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 GLOBAL STACK_GLOBAL "
        "PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET").split()}

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
        """The contents of an array; a type's state is its order of bytes, which single bytes do not have."""
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, Array):
            _, shape, kind, _, data = state
            made.data = elements(shape, kind, data)

    def bytes_of_protocol_5(self) -> None:
        self.stack.append(self.read(int.from_bytes(self.read(8), "little")))

    dispatch |= {pickle.REDUCE[0]: reduce, pickle.BUILD[0]: build, pickle.BYTEARRAY8[0]: bytes_of_protocol_5}


def text(value) -> str:
    """Python 2 wrote names as bytes."""
    return value.decode("ascii") if isinstance(value, bytes) else value


def elements(shape: tuple, kind: Name, data) -> list | np.ndarray:
    """The elements of an array of Python's objects, or of numbers: these lie where the pickle has them."""
    if not isinstance(data, list if kind == "O8" else bytes) or kind not in ("O8", "b1", *NUMBERS):
        raise pickle.UnpicklingError(f"it holds an array of {str(kind)[:80]!r}")
    made = data if kind == "O8" else np.frombuffer(data, kind)
    if shape not in ((len(made),), (len(made), 1), (1, len(made))):
        raise pickle.UnpicklingError("it holds an array of another shape than its contents")
    return made


def load_bin(path: Path, image_size: int) -> tuple[Tensor, np.ndarray]:
    """(images uint8 [2P, S, S, 3] RGB, same bool [P]) of a verification .bin; pair i = images 2i and 2i + 1."""
    try:
        bins, same = map(items, ArraysOnly(path.read_bytes()).load())
        bytes_only = all(isinstance(item, bytes) or isinstance(item, np.ndarray) and item.dtype == np.uint8 for item in bins)
        if not bytes_only or not all(item in (True, False) for item in same):
            raise ValueError("it holds other things than encoded images and booleans")
    except Exception as error:                          # a pickle can end in any of Python's errors
        said = f"opcode {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise UserError(f"{path} is not a verification file ({said}); expected a pickle of (encoded images, "
                        f"same or not)") from error
    if len(bins) != 2 * len(same) or not 10 <= len(same) <= PAIRS:
        raise UserError(f"{path} has {len(bins)} images for {len(same)} pairs; expected two each, and {PAIRS} pairs at most, "
                        f"ten pairs or more")
    images = np.empty((len(bins), image_size, image_size, 3), np.uint8)
    for i, item in enumerate(bins):
        try:
            image = decode(item)
        except ValueError as error:
            raise UserError(f"{path}: item {i} is no image that OpenCV can decode ({error}); make the file again") from error
        if image.shape[:2] != (image_size, image_size):
            image = cv2.resize(image, (image_size, image_size), interpolation=cv2.INTER_AREA)
        images[i] = image
    return torch.from_numpy(images), np.array(same, bool)


def items(value) -> list:
    """The items of a list, a tuple or an array, arrays among them as what they hold."""
    value = value.data if isinstance(value, Array) else value
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise ValueError(f"it holds {type(value).__name__} instead of a list")
    return [item.data if isinstance(item, Array) else item for item in value]


@torch.inference_mode()
def embed_pairs(backbone: nn.Module, images: Tensor, ranks: Ranks, batch_size: int) -> tuple[np.ndarray, float]:
    """(unit features [2P, d] of image + mirror image, mean norm of the plain feature); the ranks share the batches."""
    starts = range(0, len(images), batch_size)
    features, norms = None, torch.zeros((), device=ranks.device)
    for start in list(starts)[ranks.rank::ranks.world_size] or [0]:
        x = to_input(images[start:start + batch_size], ranks.device)
        plain = backbone(x)
        total = plain + backbone(x.flip(3))
        if features is None:
            features = plain.new_zeros(len(images), plain.shape[1])
        features[start:start + batch_size] = total
        norms += plain.norm(dim=1).sum()
    if ranks.rank >= len(starts):                       # fewer batches than ranks: this one only gave the shape
        features.zero_(), norms.zero_()
    dist.all_reduce(features)
    dist.all_reduce(norms)
    return nn.functional.normalize(features).cpu().numpy(), float(norms) / len(images)


def ten_fold_accuracy(features: np.ndarray, same: np.ndarray) -> tuple[float, float, float]:
    """(mean accuracy, its standard deviation over the folds, mean threshold); features [2P, d] of unit rows."""
    distance = np.square(features[0::2] - features[1::2]).sum(1)
    right = (distance[:, None] < THRESHOLDS) == same[:, None]          # [P, thresholds]
    accuracy, chosen = [], []
    for fold in np.array_split(np.arange(len(same)), 10):
        others = np.ones(len(same), bool)
        others[fold] = False
        best = right[others].mean(0).argmax()
        accuracy.append(right[fold, best].mean())
        chosen.append(THRESHOLDS[best])
    return float(np.mean(accuracy)), float(np.std(accuracy)), float(np.mean(chosen))


class Verifier:
    """The verification sets of a run: found once, kept as uint8 (a quarter of the floats, and not twice)."""

    def __init__(self, cfg, ranks: Ranks, log):
        self.ranks, self.batch_size, self.sets, self.best = ranks, cfg.batch_size, {}, {}
        for name in cfg.val_targets:
            path = Path(cfg.dataset) / f"{name}.bin"
            if path.is_file():
                self.sets[name] = load_bin(path, cfg.image_size)
            elif ranks.rank == 0:
                log.warning("no verification set %s: left out (config.val_targets)", path)

    def __call__(self, backbone: nn.Module) -> dict[str, float]:
        """{line of the log: accuracy} by set name; backbone: not wrapped, put back into training mode afterwards."""
        backbone.eval()
        accuracy = {}
        for name, (images, same) in self.sets.items():
            features, norm = embed_pairs(backbone, images, self.ranks, self.batch_size)
            mean, deviation, threshold = ten_fold_accuracy(features, same)
            self.best[name] = max(mean, self.best.get(name, 0.0))
            accuracy[name] = (f"{name} accuracy {100 * mean:.2f} +- {100 * deviation:.2f} % "
                              f"(best {100 * self.best[name]:.2f} %, threshold {threshold:.2f}, norm {norm:.1f})", mean)
        backbone.train()
        return accuracy
