"""Write the old features of the new training images: of one view per image (not flipped), raw float32, in record order.

    python tools/get_feature/get_feature.py configs/f128_r18_softmax_class30.py --SD f128_r18_softmax_class70
    torchrun --nproc_per_node=8 tools/get_feature/get_feature.py configs/... --SD ...     the ranks share the work
    python tools/get_feature/get_feature.py configs/f512_r18_arc_class30.py --model old.onnx --SD f512_theirs_class70

It reads <config.output>/model.pt, or the model of --model, and the record file that the last part of --SD names (class100 data100
class70 data70 class30 data30), and writes feature_save/<scenario>/<SD>_feature.npy [images, d] and <SD>_label.npy int64 [images].
It prints how far an image's feature is from its mirror image's: on a small set, the median is a threshold for weakenedL2.
A run that was stopped or killed is resumed by the same command.  Any number of ranks writes the same bytes.  Features of
another model or record file are not replaced without --force.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from engine.distributed import held_by_first_rank, start_ranks
from evaluation.inputs import InputOptions
from evaluation.models import EmbeddingModel, describe, open_model
from evaluation.version_names import Version
from old_model.extraction import PartialFile, extract, mirror_distances, refuse_to_replace
from old_model.names import artefact, part_of
from records.faces import FaceRecords
from records.parts import refuse_other_parts
from utils.command_line import Parser, print_written
from utils.config import load_config
from utils.errors import UserError, run
from utils.paths import locate
from utils.settings import Settings


def check_names(config_path: str, sd: str) -> None:
    """UserError unless the source-and-data name begins like the config's name, up to its last part."""
    start = Path(config_path).stem.rsplit("_", 1)[0]
    if sd.rsplit("_", 1)[0] != start:
        raise UserError(f"--SD {sd} does not belong to {config_path}: expected --SD {start}_<class70, data70, class100 ...>")


def open_old(args: argparse.Namespace, cfg: Settings, device: torch.device) -> EmbeddingModel:
    """The model of --model, or else model.pt of the config; UserError if there is none."""
    if args.model is not None:
        version = Version.parse_file("model", args.model, f"--model {args.model}")
        if version.is_array:
            raise UserError(f"--model {args.model}: expected a model; tools/import_features reads vectors")
        return version.open(argparse.Namespace(devices=[device], fp16=args.fp16, pixel_scale=127.5))
    weights = Path(cfg.output) / "model.pt"
    if not weights.is_file():
        raise UserError(f"no model {weights}; train it first with train_old_*.py {args.config}")
    return open_model(str(weights), cfg.network, [device], args.fp16, InputOptions())


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("config", help="config file of the old model")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that replace those of the file")
    parser.add_argument("--SD", required=True, help="source and data: <config's start>_<class70, data100, ...>")
    parser.add_argument("--model", metavar="FILE[:NETWORK][,WORDS]", help="another old model than the config's: .onnx, .pt with "
                        "its network, MXNet's PREFIX,EPOCH; WORDS: its input, as in tools/compare; only the end of --SD is then "
                        "prescribed")
    parser.add_argument("--batch", type=int, default=128, help="images per step and rank")
    parser.add_argument("--fp16", action="store_true", help="half precision: faster, features differ by about 1e-3")
    parser.add_argument("--force", action="store_true", help="replace features of another model or record file")
    parser.add_argument("--local_rank", "--local-rank", type=int, help="given by torch.distributed.launch; not used")
    return parser.parse_intermixed_args()


def main() -> None:
    args = parse_arguments()
    cfg = load_config(args.config, args.overrides)
    if args.model is None:
        check_names(args.config, args.SD)
    ranks = start_ranks()
    model = open_old(args, cfg, ranks.device)
    if ranks.rank == 0:
        print("\n".join(model.notes), end="\n" * bool(model.notes))
    records = locate(part_of(args.SD)[1], cfg.dataset)
    dataset = FaceRecords(records, model.image_size)
    refuse_other_parts([dataset.path])
    origin = {"model": model.fingerprint, "records": dataset.fingerprint(), "images": len(dataset),
              "fp16": args.fp16} | describe(model)
    targets = [artefact(cfg.feature_save, args.SD, kind) for kind in ("feature", "label")]
    refusal = (f"another extraction, or a process of a killed one, still writes {targets[0]}; wait until it ends, or end it, and "
               f"start again; or give another feature_save=FOLDER")
    replica = model.replicas()[0]
    with held_by_first_rank(targets[0].with_name(f"{args.SD}.lock"), refusal, ranks):
        for target in targets if not args.force else ():
            refuse_to_replace(target, origin)
        file = PartialFile(targets[0], targets[1], origin | {"batch_size": args.batch}, ranks)
        extract(lambda images: replica(images, mirror=False)[0], dataset, file, ranks, args.batch, cfg.workers)
        dist.barrier()
        if ranks.rank == 0:
            model_file = args.model or str((Path(cfg.output) / "model.pt").resolve())
            file.finish(origin | {"model_file": model_file, "record_file": str(dataset.path.resolve())})
            print(f"{len(dataset)} features of {model.dim} dimensions")
            distances = mirror_distances(replica, dataset, args.batch)
            print(f"distance of an image's feature to its mirror image's: median {np.median(distances):.2f}, 5 % quantile "
                  f"{np.quantile(distances, 0.05):.2f} ({len(distances)} images, unit features)")
            print_written(targets[0])
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    run(main)
