"""Write the classifier of a training as one array [C, d]: the shards of all ranks, in the order of the classes.

    python tools/export_classifier/export_classifier.py -f work_dirs/f512_r18_arc_class30 -o classifier.npy

-f: the training's folder (softmax_fc_gpu_*.pt) or one of its checkpoints (checkpoints/<images>).  -o: .npy, the class
vectors float32 [C, d] alone; or .pt, {"weight": [C, d]} and, of a softmax head, {"bias": [C]}.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from engine.checkpoint import found_in, save_whole, why_not
from utils.errors import UserError, run


def whole_classifier(folder: Path) -> dict[str, Tensor]:
    """{"weight": [C, d]} and perhaps {"bias": [C]} of a training's folder or checkpoint."""
    if (folder / "complete.json").is_file():
        about = found_in(folder.parent)[folder.name]
        if isinstance(about, str):
            raise UserError(f"{about}; export another checkpoint")
        files = [folder / name for name in about["files"]]
        wrong = next(filter(None, (why_not(file, about["files"][file.name]) for file in files)), None)
        if wrong:
            raise UserError(f"{wrong}; export another checkpoint")
        tensors = [torch.load(file, map_location="cpu", mmap=True, weights_only=True)["tensors"] for file in files]
        shards = [{name: rank[f"head/{name}"] for name in ("weight", "bias") if f"head/{name}" in rank} for rank in tensors]
        return joined(shards)
    files = sorted(folder.glob("softmax_fc_gpu_*.pt"), key=lambda file: int(file.stem.rpartition("_")[2]))
    if not files:
        raise UserError(f"no softmax_fc_gpu_*.pt and no complete.json in {folder}; expected the folder of a training "
                        f"(work_dirs/NAME) or of one of its checkpoints (work_dirs/NAME/checkpoints/N)")
    try:
        shards = [torch.load(file, map_location="cpu", weights_only=True) for file in files]
        whole = joined([{name: shard[name] for name in ("weight", "bias") if name in shard} for shard in shards])
    except Exception as error:      # torn files, other tensors: torch has an exception for each
        raise UserError(f"{folder} holds a softmax_fc_gpu_*.pt that is no shard of a classifier "
                        f"({str(error).splitlines()[0]}); copy all shards of one training") from error
    expected = shards[0].get("num_classes", len(whole["weight"]))
    if len(whole["weight"]) != expected:
        raise UserError(f"the {len(files)} shards in {folder} hold {len(whole['weight'])} classes, expected {expected}; copy "
                        f"all shards of one training")
    return whole


def joined(shards: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("-f", "--folder", type=Path, required=True, help="of a training, or of one of its checkpoints")
    parser.add_argument("-o", "--output", type=Path, default=Path("classifier.npy"), help=".npy or .pt")
    args = parser.parse_args()
    if args.output.suffix not in (".npy", ".pt"):
        raise UserError(f"-o {args.output} must end in .npy or .pt")
    whole = whole_classifier(args.folder)
    if args.output.suffix == ".pt":
        save_whole(whole, args.output)
    else:
        np.save(args.output, whole["weight"].float().numpy())
    print(f"{args.output}: {len(whole['weight'])} classes of {whole['weight'].shape[1]} dimensions")


if __name__ == "__main__":
    run(main)
