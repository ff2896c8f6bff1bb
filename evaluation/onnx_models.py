"""ONNX files as models: images in, embeddings of them and of their mirror images out."""

import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.inputs import RAW, InputOptions, ModelInput, network_input
from evaluation.onnx_front import find_input
from utils.errors import UserError
from utils.files import file_hash

# Types of pixels that are served.
PIXEL_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
               "tensor(uint8)": np.uint8}
USUAL_SIZE = 112        # pixels, if the file leaves its image size free
NEWER = re.compile("till opset|unsupported model ir|ir_version", re.IGNORECASE)    # in onnxruntime's errors
TOLERANCE = 0.02        # largest relative difference of an embedding in two batches; float16 differs by about 1e-3


class OnnxModel:
    """An ONNX file with one input of images, [N, 3, S, S] or [N, S, S, 3], and the embedding [N, d] among its outputs.

    float32, float16, float64 or uint8; N is free or fixed; a free S is 112. The normalisation of the pixels is followed in the
    first nodes (onnx_front), unless ``options`` give it. UserError in one sentence for anything else.
    """

    def __init__(self, file: str, devices: list[torch.device], fp16: bool, options: InputOptions):
        import onnx
        import onnxruntime

        if fp16:
            raise UserError(f"--fp16 works for PyTorch checkpoints only, and {file} is an ONNX file; run without --fp16")
        if not Path(file).is_file():
            raise UserError(f"no model file {file}; expected an ONNX file")
        self.runtime, self.file, self.precision = onnxruntime, file, "onnx"
        self.cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        if devices[0].type == "cuda" and not self.cuda:
            print("the installed onnxruntime does not support CUDA: the model runs on the CPU (pip install onnxruntime-gpu)")
        self.devices = devices if self.cuda else [torch.device("cpu")]
        try:
            model = onnx.load(file, load_external_data=False)
            weight_files = external_weight_files(file, model)
            session = self.session(torch.device("cpu"))
        except UserError:
            raise
        except Exception as error:      # protobuf and onnxruntime raise many types
            raise UserError(why_not_loaded(file, error)) from error
        self.fingerprint = file_hash([file, *weight_files])
        self.notes: list[str] = []
        self.name, self.type, self.axis, self.image_size, self.batch = input_of(file, session)
        self.input = self.decided(model, options)
        self.batch, self.output, self.dim = self.tried(session, options.output)

    def decided(self, model, options: InputOptions) -> ModelInput:
        """What the model is given: as the options say, as its first nodes show, or the default; a note says which."""
        found = find_input(model, self.name, self.axis, Path(self.file).parent)
        raw_type = self.type == np.uint8
        seen = RAW if raw_type and (found.input is None or not found.input.raw) else found.input
        chosen = options.chosen(seen)
        if raw_type and not chosen.raw:
            raise UserError(f"{self.file} takes uint8, which are pixels from 0 to 255; expected input=raw, found {chosen.pixels}")
        if options.mean is not None:
            differs = found.input is not None and found.input.pixels != chosen.pixels
            reason = "as the command line says" + (f", although {found.words}" if differs else "")
        elif seen is RAW and raw_type:
            reason = "it takes uint8"
        else:
            reason = found.words if found.input is not None else f"the default, because {found.words}"
        note = f"{Path(self.file).name} is given {chosen}: {reason}"
        if options.bgr is None and not found.colours:
            note += "; the order of the colours is the default"
        self.notes.append(note)
        if not found.sure and options.mean is None and not raw_type:
            self.notes.append(f"warning: the input of {self.file} is a guess; give input=raw or input=MEAN/STD")
        return chosen

    def session(self, device: torch.device):
        """The file, loaded onto a device."""
        gpu = [("CUDAExecutionProvider", {"device_id": device.index or 0})] if device.type == "cuda" else []
        options = self.runtime.SessionOptions()
        options.log_severity_level = 4          # its errors become sentences here
        return self.runtime.InferenceSession(self.file, options, providers=gpu + ["CPUExecutionProvider"])

    def tried(self, session, wanted: str | None) -> tuple[int | None, str, int]:
        """(images per call or None for any number, name of the embedding, d), from two batches that share their first image."""
        names = [output.name for output in session.get_outputs()]
        if wanted is not None and wanted not in names:
            raise UserError(f"{self.file} has no output {wanted}; expected output= with one of {', '.join(names)}")
        images = np.random.default_rng(0).integers(0, 256, (3, self.image_size, self.image_size, 3), np.uint8)
        found: dict[int, list] = {}
        for count in [self.batch] if self.batch else [2, 1]:
            batches = [images[[0] + [other] * (count - 1)] for other in (1, 2)]
            try:
                results = [session.run(names, {self.name: self.prepared(torch.from_numpy(batch))}) for batch in batches]
            except Exception as error:          # onnxruntime raises many types
                problem = error
                continue
            found[count] = results
            if self.batch or any(np.ndim(value) and len(value) == count for value in results[0]):
                break
        if not found:
            raise UserError(f"{self.file} cannot compute {self.batch or 'one or two'} images of {self.image_size} x "
                            f"{self.image_size} pixels ({short(problem)}); export it again") from problem
        count, results = list(found.items())[-1]
        chosen = choose_output(self.file, names, results[0], count, wanted)
        first, again = (np.asarray(result[names.index(chosen)][0], np.float64).ravel() for result in results)
        if not np.linalg.norm(first - again) <= TOLERANCE * np.linalg.norm(first) and np.isfinite(first).all():
            raise UserError(f"{self.file} gives an image another embedding if the other images of the batch change; expected a "
                            f"model exported for inference: export it again after model.eval()")
        if len(names) > 1:
            self.notes.append(f"{Path(self.file).name} has the outputs {', '.join(names)}; the embedding is read from {chosen}")
        if self.batch is None and count == 1:
            self.notes.append(f"warning: {self.file} computes one image at a time, because a batch of 1 is fixed inside; "
                              f"export it with a free batch to make it faster")
        return (None if self.batch is None and count == 2 else count), chosen, len(first)

    def prepared(self, images: Tensor) -> np.ndarray:
        """The model's input from uint8 [B, S, S, 3] RGB."""
        x = network_input(images, torch.device("cpu"), self.input)
        if self.axis == 3:
            x = x.permute(0, 2, 3, 1)
        return x.contiguous().numpy().astype(self.type, copy=False)

    def replicas(self) -> list:
        return [partial(self.embed, self.session(device)) for device in self.devices]

    def embed(self, session, images: Tensor, mirror: bool = True) -> np.ndarray:
        """float32 [2, B, d]: embeddings of images and mirror images; [1, B, d] without ``mirror``."""
        x = self.prepared(torch.cat([images, images.flip(2)]) if mirror else images)
        step = self.batch or len(x)
        padded = np.concatenate([x, np.repeat(x[-1:], -len(x) % step, axis=0)])     # complete batches for a fixed N
        out = [session.run([self.output], {self.name: padded[i:i + step]})[0] for i in range(0, len(padded), step)]
        return np.concatenate(out)[:len(x)].astype(np.float32).reshape(1 + mirror, len(images), -1)


def why_not_loaded(file: str, error: Exception) -> str:
    """The sentence on a file that onnx or onnxruntime refuses."""
    start = Path(file).read_bytes()[:200].lstrip().lower()
    if not start:
        return f"{file} is empty; copy or download the model again"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"version https://git-lfs")):
        return f"{file} is a web page or a pointer of git-lfs, not an ONNX model; download the model itself"
    reason = short(error).replace(file, Path(file).name)
    if NEWER.search(str(error)):
        return (f"{file} needs a newer onnxruntime ({reason}); install one, or export the model with a lower opset "
                f"(tools/export_onnx --opset)")
    return f"{file} is not an ONNX model that onnxruntime can load ({reason}); export it again"


def short(error: Exception) -> str:
    """The end of an error, in one line: onnxruntime begins with the code and the file."""
    return " ".join(str(error).split())[-250:]


def input_of(file: str, session) -> tuple[str, type, int, int, int | None]:
    """(name, type of the pixels, dimension of the channels, image size, images per call or None) of the only input.

    UserError if it is not one input of square images with three channels.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise UserError(f"{file} takes {len(inputs)} inputs, {', '.join(part.name for part in inputs)}; expected one: export it "
                        f"with the images as its only input")
    shape, kind = inputs[0].shape, inputs[0].type
    if kind not in PIXEL_TYPES:
        raise UserError(f"{file} takes {kind.removeprefix('tensor(').rstrip(')')}; expected pixels as float, float16, double or "
                        f"uint8: export it with one of them")
    if len(shape) != 4 or 3 not in (shape[1], shape[3]) and isinstance(shape[1], int):
        raise UserError(f"{file} has input of shape {shape}; expected colour images, [N, 3, S, S] or [N, S, S, 3]")
    axis = 3 if shape[3] == 3 and shape[1] != 3 else 1
    height, width = (size for place, size in enumerate(shape) if place not in (0, axis))
    if isinstance(height, int) and isinstance(width, int) and height != width:
        raise UserError(f"{file} takes images of {height}x{width} pixels (height x width); expected square ones")
    size = next((side for side in (height, width) if isinstance(side, int)), USUAL_SIZE)
    return inputs[0].name, PIXEL_TYPES[kind], axis, size, shape[0] if isinstance(shape[0], int) else None


def choose_output(file: str, names: list[str], values: list, count: int, wanted: str | None) -> str:
    """The output that is an embedding of each of ``count`` images, or ``wanted``; UserError if that is not exactly one."""
    candidates = [name for name, value in zip(names, values, strict=True) if is_embedding(value, count)]
    kinds = ", ".join(f"{name} {kind_of_output(value)}" for name, value in zip(names, values, strict=True))
    if wanted is not None:
        if wanted not in candidates:
            raise UserError(f"output={wanted} of {file} is no embedding [N, d] of floats for {count} images; found {kinds}")
        return wanted
    if not candidates:
        raise UserError(f"{file} gives {kinds} for {count} images, expected an embedding [N, d] of floats with d above 1: export "
                        f"the model up to its embedding")
    if len(candidates) > 1:
        raise UserError(f"{file} has several outputs that can be the embedding ({kinds}); expected one: name it with "
                        f"output=, for example output={candidates[0]}")
    return candidates[0]


def is_embedding(value, count: int) -> bool:
    """Whether ``value`` has one vector of at least 2 floats for each image, also as [N, d, 1, 1]."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.ndim < 2 or len(value) != count:
        return False
    return sum(size > 1 for size in value.shape[1:]) == 1


def kind_of_output(value) -> str:
    """Type and shape of an output, for messages."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def external_weight_files(file: str, model) -> list[str]:
    """The files that hold weights of a large ONNX ``model``.

    UserError if one is missing or outside the model's folder: onnxruntime would read any file of this machine.
    """
    names = set()
    for tensor in tensors(model):
        names |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    for name in sorted(names):
        path = Path(file).parent / name
        if os.path.isabs(name) or os.path.normpath(name).split("/")[0] in ("..", "."):
            raise UserError(f"{file} reads weights from {name[:255]!r}; expected a file in the model's folder: export it again")
        if not path.is_file():
            raise UserError(f"{file} reads weights from {name[:255]!r}, but there is no file {path}; copy both files")
    return [str(Path(file).parent / name) for name in sorted(names)]


def tensors(message):
    """All tensors in an ONNX model (a protobuf message): weights and constants, also those of subgraphs and functions."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "DESCRIPTOR") else value:     # single or repeated field
                yield from tensors(part)
