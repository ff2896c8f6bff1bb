"""Write a trained backbone as an ONNX file, float32, for any number of images, and compare it with PyTorch.

    python tools/export_onnx/export_onnx.py -m work_dirs/NEW/model.pt -net r50 -o new.onnx

Input "input" float32 [N, 3, S, S], RGB, (pixel - 127.5) / 127.5; output "embedding" float32 [N, d], not
normalised.
"""

import argparse
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from backbones.weights import load_model
from utils.errors import UserError, run
from utils.files import disk_errors, put_in_place

PROTOBUF_LIMIT = 2 ** 31 - 2 ** 20      # bytes; a model beyond it keeps its weights in NAME.onnx.data beside
TOLERANCE = 1e-3                        # of the largest value of the embedding; measured: about 1e-6


def export(model: nn.Module, file: Path) -> None:
    """Write ``model`` (eval mode, model.image_size) to ``file``.

    strict: the exporter's quicker way takes len(tensor) for a constant and fixes the number of images.
    """
    size = model.image_size
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)         # it tells that torchvision is not there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)              # from torch's use of its own pytrees
        free = ({0: torch.export.Dim("N")},)
        images = torch.zeros(2, 3, size, size)
        program = torch.export.export(model, (images,), dynamic_shapes=free, strict=True)
        torch.onnx.export(program, (), str(file), input_names=["input"], output_names=["embedding"],
                          dynamic_shapes=free, external_data=weights > PROTOBUF_LIMIT, verbose=False)


@torch.inference_mode()
def difference(model: nn.Module, file: Path, batches: tuple[int, ...] = (1, 3)) -> tuple[float, float]:
    """(largest difference between onnxruntime and PyTorch, largest value) on random images."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    generator, found = torch.Generator().manual_seed(0), []
    for n in batches:
        x = torch.rand(n, 3, model.image_size, model.image_size, generator=generator) * 2 - 1
        expected = model(x).numpy()
        found.append((np.abs(session.run(["embedding"], {"input": x.numpy()})[0] - expected).max(),
                      np.abs(expected).max()))
    largest, scale = np.max(found, axis=0)
    return float(largest), float(scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("-m", "--model_file", required=True, metavar="FILE", help="model.pt of a backbone")
    parser.add_argument("-net", "--network", default="r50", help="its network, as in the configs")
    parser.add_argument("-o", "--output", metavar="FILE.onnx", help="default: the model's name with .onnx")
    args = parser.parse_args()
    output = Path(args.output) if args.output else Path(args.model_file).with_suffix(".onnx")
    if output.suffix != ".onnx":
        raise UserError(f"-o {output}: expected a name that ends in .onnx")

    model = load_model(args.network, args.model_file)
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        parts = tempfile.TemporaryDirectory(dir=output.parent, prefix=f"{output.name}.part")
    with disk_errors(output), parts as folder:
        export(model, Path(folder) / output.name)
        largest, scale = difference(model, Path(folder) / output.name)
        if not largest <= TOLERANCE * scale:
            raise UserError(f"the ONNX form of {args.model_file} differs from PyTorch by {largest:.2e} "
                            f"(embeddings reach {scale:.2e}); nothing was written, try the versions in "
                            f"requirements.txt")
        for written in sorted(Path(folder).iterdir(), reverse=True):    # NAME.onnx.data before NAME.onnx
            put_in_place(written, output.parent / written.name)
    size = model.image_size
    print(f"wrote {output}: input [N, 3, {size}, {size}], embedding [N, {model.num_features}]")
    print(f"largest difference to PyTorch {largest:.2e}, where embeddings reach {scale:.2e}")


if __name__ == "__main__":
    run(main)
