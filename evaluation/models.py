"""Model files of PyTorch, ONNX and MXNet behind one interface: images in, embeddings of them and of their mirror images out."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from backbones.weights import fingerprint, load_model, load_state
from evaluation.inputs import RAW, InputOptions, ModelInput, network_input
from evaluation.onnx_models import OnnxModel
from utils.errors import UserError
from utils.files import file_hash
from utils.memory import keep_freed_memory
from utils.precision import full_float32, half_precision

Replica = Callable[..., np.ndarray]     # uint8 [B, S, S, 3] RGB -> float32 [2, B, dim]: images and mirror images;
#                                         with mirror=False [1, B, dim]


class EmbeddingModel(Protocol):
    """What the three kinds of models have in common."""

    fingerprint: str            # sha256 of the weights
    image_size: int             # S, pixels
    dim: int
    precision: str              # of the computation: float32, float16, bfloat16, onnx, mxnet
    input: ModelInput           # what it is given
    output: str                 # name of the embedding in an ONNX file, else ""
    notes: list[str]            # what was decided about it, to print

    def replicas(self) -> list[Replica]:
        """A function per device, each with a copy of the model."""


def open_model(file: str, network: str, devices: list[torch.device], fp16: bool, options: InputOptions) -> EmbeddingModel:
    """The model in ``file``: NAME.onnx, MXNet's PREFIX,EPOCH, or a PyTorch checkpoint of ``network``.

    network: used for PyTorch only.  options: of its input and output.  UserError if the file is missing or not such a model.
    """
    if file.lower().endswith(".onnx"):
        return OnnxModel(file, devices, fp16, options)
    if options.output is not None:
        raise UserError(f"{file}: output= names an output of an ONNX file, and this is none; leave it out")
    if "," in Path(file).name:
        return MxnetModel(file, devices, fp16, options)
    return TorchModel(file, network, devices, fp16, options)


def describe(model: EmbeddingModel) -> dict:
    """What a model takes and gives, as it is kept next to its embeddings and features and compared where two meet."""
    return {"dim": model.dim, "image_size": model.image_size, "input": model.input.pixels,
            "colours": model.input.colours, "output": model.output, "precision": model.precision,
            "similarity": "cosine"}


def find_devices(name: str) -> list[torch.device]:
    """The devices that --device names: "cpu"; "cuda": all visible GPUs; "cuda:1": that one.  UserError for anything else.

    With "cpu", freed memory is kept for the next batch from now on. It must be called before any thread has its own heap.
    """
    device: torch.device | None
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: expected cpu, cuda (all GPUs) or cuda:K")
    if device.type == "cpu":
        keep_freed_memory()
        return [device]
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise UserError(f"--device {name}: torch sees {count} GPUs; expected one of them, or --device cpu")
    full_float32()
    return [device] if device.index is not None else [torch.device("cuda", i) for i in range(count)]


def both_views(images: Tensor, device: torch.device, expected: ModelInput, mirror: bool = True) -> Tensor:
    """Network input float32 [2B, 3, S, S]: images and then mirror images; [B, 3, S, S] without ``mirror``.

    images: uint8 [B, S, S, 3] RGB.
    """
    x = network_input(images, device, expected)
    return torch.cat([x, x.flip(3)]) if mirror else x


class TorchModel:
    """A state dict of one of the networks in backbones/."""

    def __init__(self, file: str, network: str, devices: list[torch.device], fp16: bool, options: InputOptions):
        self.model = load_model(network, file, fp16=fp16)
        self.devices = devices
        self.input, self.output = options.chosen(None), ""
        self.notes: list[str] = [] if options.chosen(None) == ModelInput() else [f"{Path(file).name} is given {self.input}"]
        self.fingerprint = fingerprint(load_state(file))
        self.dim, self.image_size = self.model.num_features, self.model.image_size
        half = half_precision(devices[0].type) if fp16 else None
        self.precision = str(half or torch.float32).removeprefix("torch.")

    def replicas(self) -> list:
        # torch's stub of Module.to lacks memory_format.
        models = [copy.deepcopy(self.model).to(device, memory_format=torch.channels_last)     # type: ignore[call-overload]
                  for device in self.devices]
        return [partial(self.embed, *place) for place in zip(models, self.devices, strict=True)]

    @torch.inference_mode()
    def embed(self, model: nn.Module, device: torch.device, images: Tensor, mirror: bool = True) -> np.ndarray:
        out = model(both_views(images, device, self.input, mirror))
        return out.float().view(1 + mirror, len(images), -1).cpu().numpy()


class MxnetModel:
    """MXNet's PREFIX-symbol.json and PREFIX-EPOCH.params; the embedding is the output of insightface's layer fc1."""

    def __init__(self, file: str, devices: list[torch.device], fp16: bool, options: InputOptions):
        prefix, _, epoch = file.rpartition(",")
        if fp16 or not epoch.isdigit():
            raise UserError(f"{file}: expected MXNet's PREFIX,EPOCH, for example models/r100/model,0, and no --fp16")
        files = [f"{prefix}-symbol.json", f"{prefix}-{int(epoch):04d}.params"]
        missing = [name for name in files if not Path(name).is_file()]
        if missing:
            raise UserError(f"no file {missing[0]}: expected {' and '.join(files)} for the MXNet model {file}")
        self.mx = import_mxnet(file)
        symbol, self.arg, self.aux = self.mx.model.load_checkpoint(prefix, int(epoch))
        layers = symbol.get_internals()
        outputs = layers.list_outputs()
        if "fc1_output" not in outputs:
            raise UserError(f"{files[0]} has no layer fc1; expected a model of insightface, whose embedding is that layer")
        self.symbol = layers["fc1_output"]
        # insightface's networks compute (x - 127.5) / 128 in their first layers.
        inside = any("minusscalar" in name for name in outputs)
        self.input, self.output = options.chosen(RAW if inside else None), ""
        self.notes = [f"{Path(files[0]).name} is given {self.input}: {'a' if inside else 'no'} layer subtracts a mean"]
        self.image_size, self.devices = 112, devices
        self.dim = self.symbol.infer_shape_partial(data=(1, 3, 112, 112))[1][0][1]
        self.fingerprint, self.precision = file_hash(files), "mxnet"

    def replicas(self) -> list:
        gpus = self.devices if self.devices[0].type == "cuda" and self.mx.context.num_gpus() else []
        contexts = [self.mx.gpu(device.index or 0) for device in gpus] or [self.mx.cpu()]
        return [partial(self.embed, self.bound(context), context) for context in contexts]

    def bound(self, context):
        module = self.mx.mod.Module(self.symbol, context=context, label_names=None)
        module.bind([("data", (1, 3, self.image_size, self.image_size))], for_training=False)
        module.set_params(self.arg, self.aux, allow_missing=False, allow_extra=True)
        return module

    def embed(self, module, context, images: Tensor, mirror: bool = True) -> np.ndarray:
        x = both_views(images, torch.device("cpu"), self.input, mirror).contiguous().numpy()
        module.forward(self.mx.io.DataBatch([self.mx.nd.array(x, context)]), is_train=False)
        return module.get_outputs()[0].asnumpy().reshape(1 + mirror, len(images), -1)


def import_mxnet(file: str):
    try:
        import mxnet
    except (ImportError, AttributeError, OSError) as error:     # AttributeError: numpy has no np.bool any more
        raise UserError(f"{file} is an MXNet model, but mxnet cannot be imported ({error}); make a separate environment from "
                        f"requirements-mxnet.txt (Python 3.10 or 3.11), or convert the model to ONNX") from error
    return mxnet
