"""IJB-C and IJB-B: verification (1:1) and identification (1:N) of a model, alone or on the gallery of an old model.

    python tools/ijbc_eval/ijbc_eval.py -m=work_dirs/NEW/model.pt -net=r50                                             1:1
    python tools/ijbc_eval/ijbc_eval.py -m=work_dirs/NEW/model.pt -net=r50 -N                                          1:N
    python tools/ijbc_eval/ijbc_eval.py -m=NEW/model.pt -net=r50 -m_old=OLD/model.pt -old_net=r18                      cross test
    python tools/ijbc_eval/ijbc_eval.py -P ijbc_result/*.npz                                                           plots

In a cross test the old model embeds the first template of each pair and the galleries, the new model the second template and
the probes; if their dimensions differ, the new embeddings are replaced by their view, view_<d_o>.npz next to the new model.pt.
Writes <out>/<name>_<subset>_<11 or 1N>.npz, .json (shares in [0, 1]) and plots (PNG). The embeddings of a model are kept in
<out>/embeddings and used again.
"""

import argparse
import glob
import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from evaluation.embed import embeddings
from evaluation.feature_files import check_kind
from evaluation.formats import tidy
from evaluation.identification import one_to_many
from evaluation.inputs import InputOptions
from evaluation.map_forms import Map
from evaluation.models import EmbeddingModel, describe, find_devices, open_model
from evaluation.protocol import GALLERIES, Images, read_images, read_pairs, read_search
from evaluation.templates import DEFAULT, MODES, template_features
from evaluation.verification import one_to_one
from evaluation.version_features import check_finite
from evaluation.view_files import find_view, folder_of, view_file
from tools.ijbc_eval.report import figures_by_name, load_result, plot_results, print_tables, save_result
from utils.arrays import read_npz
from utils.command_line import Parser, at_least, make_folder, print_written
from utils.errors import UserError, run

AUC_OF_GUESSING = 0.6       # below it, a warning
MAX_NAME = 200      # bytes of a result's name; _IJBC_1N_bunch_tpir.png and the ending of an unfinished file follow it


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("-m", "--model_file", metavar="FILE",
        help="new model: model.pt, NAME.onnx, or MXNet's PREFIX,EPOCH (default: the embeddings in -R are used)")
    add("-net", "--network", default="r50", help="network of a .pt file, named as in the configs")
    add("-m_old", "--old_model_file", metavar="FILE", help="old model for the gallery side, which makes it a cross test")
    add("-old_net", "--old_network", default="r18", help="network of the old .pt file")
    add("-d", "--data_path", default=str(ROOT / "dataset"), metavar="DIR", help="folder of IJBC and IJBB")
    add("-s", "--subset", default="IJBC", choices=list(GALLERIES), help="data set")
    add("--missing", default="refuse", choices=["refuse", "count"],
        help="templates that a list names but that have no image. count: they are never matched, which lowers TAR and TPIR but "
             "neither FAR nor FPIR")
    add("-b", "--batch_size", type=at_least(1, int), default=128,
        help="images per step and device; each is embedded twice, as it is and mirrored")
    add("-N", "--is_one_2_N", action="store_true", help="1:N identification instead of 1:1 verification")
    add("-B", "--is_bunch", action="store_true",
        help="all eight modes N{0,1}D{0,1}F{0,1} instead of N0D1F1: embeddings scaled to norm 1 (N), weighted by the detector's "
             "score (D), added to those of the mirror images (F)")
    add("-R", "--save_result", metavar="FILE.npz",
        help="result file, default: <out>/<name>_<subset>_<11 or 1N>.npz; without -m: the file whose embeddings are used")
    add("-E", "--save_embeddings", action="store_true", help="put the embeddings into the result file, too")
    add("-L", "--save_label", action="store_true", help="put the labels of the 1:1 pairs into the result file, too")
    add("-F", "--force_reload", action="store_true", help="compute embeddings again even if they are kept")
    add("-P", "--plot_only", nargs="*", metavar="FILE.npz",
        help="only print these results and plot them together, as <out>/plot_*.png")
    add("--out", default="ijbc_result", metavar="DIR", help="folder for results and kept embeddings")
    add("--roc", default="exact", choices=["exact", "public"],
        help="TAR at FAR x. exact: the largest with a FAR <= x; public: the nearest point of scikit-learn's thinned curve, from "
             "float64 scores, as the public evaluators read it")
    add("--pixel-scale", type=at_least(1, float), default=127.5,
        help="input of a model that does not normalise itself is (pixel - 127.5) / this; the public evaluators use 128")
    for flag, side in (("--input", "new"), ("--old-input", "old")):
        add(flag, default="", metavar="WORDS", help=f"input of the {side} model, if what is found in its file is wrong: "
            "input=raw or input=MEAN/STD (pixels from 0 to 255), rgb or bgr, output=NAME; for example input=127.5/128,bgr")
    add("--workers", type=at_least(0, int), default=min(8, os.cpu_count() or 1),
        help="processes that read and align images; 0: the main process reads them")
    add("--fp16", action="store_true", help="half precision for .pt files, if the device supports it")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda (all GPUs share the images) or cuda:K")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.save_result is not None and Path(args.save_result).suffix != ".npz":
        raise UserError(f"-R {args.save_result}: expected a name that ends in .npz; .json and .png files are written next to it")
    check_name_length(args)
    make_folder(Path(args.out), "--out or -R")
    if None not in (args.save_result, args.model_file):
        make_folder(Path(args.save_result).parent, "--out or -R")
    if args.plot_only is not None:
        plot_saved(args.plot_only, Path(args.out))
    else:
        evaluate(args)


def check_name_length(args: argparse.Namespace) -> None:
    """UserError if the names of the result files would be too long for a file system, before hours of embedding."""
    models = [model_name(file) for file in (args.model_file, args.old_model_file) if file is not None]
    name = Path(args.save_result).stem if args.save_result is not None else "_on_".join(models)
    if len(name.encode()) > MAX_NAME:
        raise UserError(f"the results would be called {name[:40]}..., {len(name.encode())} bytes; expected at most {MAX_NAME}: "
                        f"give a shorter name with -R FILE.npz")


def plot_saved(patterns: list[str], out: Path) -> None:
    """Print the tables of result files and plot them together.  patterns: files, also with wildcards or separated by commas."""
    files = [file for text in patterns for pattern in text.split(",") if pattern.strip()
             for file in sorted(glob.glob(pattern.strip())) or [pattern.strip()]]
    if not files:
        raise UserError("-P needs result files, found none; give them, for example -P ijbc_result/*.npz")
    results = [load_result(Path(file)) for file in files]
    print_tables([report for report, _ in results])
    for file in plot_results(results, out / "plot"):
        print_written(file)


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate one protocol in one mode or all eight; print tables and write .npz, .json and plots."""
    images = read_images(args.data_path, args.subset, args.missing == "count")
    labels = None
    if args.is_one_2_N:
        name, kind = "1:N", "1N"
        search = read_search(args.data_path, args.subset, images)
        measure = partial(one_to_many, protocol=search, device=find_devices(args.device)[0])
        protocol = str(search)
    else:
        name, kind = "1:1", "11"
        pairs = read_pairs(args.data_path, args.subset, images)
        measure, protocol, labels = partial(one_to_one, pairs=pairs, public=args.roc == "public"), str(pairs), pairs.same
    print(f"{args.subset}: {len(images)} images in {len(images.template_ids)} templates, {protocol}")
    notes = list(search.notes) if args.is_one_2_N else []
    if images.missing.any():
        notes.append(f"{images.missing.sum():,} templates have no image; they count as never matched")
    print("".join(f"warning: {note}\n" for note in notes), end="")
    source = kept_embeddings if args.model_file is None else model_embeddings
    new, old, settings = source(args, images)
    settings |= {"subset": args.subset, "data": str(Path(args.data_path).resolve()), "protocol": name,
                 "kind": "self" if old is None else "cross", "roc": args.roc, "images": len(images)}

    figures, per_mode = {}, []
    for mode in MODES if args.is_bunch else [DEFAULT]:
        query = template_features(new, images, mode)
        gallery = query if old is None else template_features(old, images, mode)
        mode_figures, curves = measure(gallery, query)
        figures[str(mode)] = tidy(mode_figures)
        per_mode.append(curves)
    report = {"settings": settings, name: figures[str(DEFAULT)]}
    if args.is_bunch:
        report["modes"] = figures
    arrays = {key: np.stack([curves[key] for curves in per_mode]) for key in per_mode[0]}
    arrays["names"] = np.array(list(figures_by_name(report)))
    if args.save_label and labels is not None:
        arrays["label"] = labels
    stem = f"{settings['name']}_{args.subset}_{kind}"
    file = result_file(args, f"{stem}_bunch" if args.is_bunch else stem)
    if args.save_embeddings or is_source(file, args):
        arrays |= {f"embs{view}{side}": kept[k] for side, kept in (("", new), ("_old", old))
                   if kept is not None for k, view in enumerate(("", "_f"))}
    give_out(report, arrays, file)


def give_out(report: dict, arrays: dict[str, np.ndarray], file: Path) -> None:
    """Print the table of a result, write it to ``file`` and draw its curves."""
    print_tables([report])
    area = report.get("1:1", {}).get("auc")
    if area is not None and area < AUC_OF_GUESSING:
        print(f"warning: the AUC is {100 * area:.2f} %, hardly more than guessing: is the input of each model right (--input), "
              f"and do landmarks and templates belong to these images?")
    save_result(file, report, arrays)
    for written in (*plot_results([(report, arrays)], file.with_suffix("")), file.with_suffix(".json"), file):
        print_written(written)


def result_file(args: argparse.Namespace, name: str) -> Path:
    """The file of -R; <out>/<name>.npz if -R is not given or is the file whose embeddings are used."""
    if args.save_result is None or args.model_file is None:
        return Path(args.out) / f"{name}.npz"
    return Path(args.save_result)


def is_source(file: Path, args: argparse.Namespace) -> bool:
    """Whether ``file`` is the one whose embeddings are used: they must be written to it again."""
    return args.model_file is None and file.resolve() == Path(args.save_result).resolve()


def model_embeddings(args: argparse.Namespace, images: Images) -> tuple:
    """(new, old or None, settings): embeddings of the models [2, N, d], computed or read from <out>/embeddings."""
    devices = find_devices(args.device)
    sides = [(args.model_file, args.network)]
    if args.old_model_file is not None:
        sides.append((args.old_model_file, args.old_network))
    said = [InputOptions.parse(words, flag, args.pixel_scale)
            for words, flag in ((args.input, "--input"), (args.old_input, "--old-input"))]
    models = [open_model(file, network, devices, args.fp16, options)
              for (file, network), options in zip(sides, said, strict=False)]
    for model in models:
        print("\n".join(model.notes), end="\n" * bool(model.notes))
    view = view_of_new(args, models[0], models[-1].dim)
    per_model: list = [embeddings(model, images, Path(args.out) / "embeddings", args.batch_size, args.workers,
                                  args.force_reload) for model in models]
    if view is not None:
        per_model[0] = np.stack([view(embs) for embs in per_model[0]])
    described = [{"file": file, "network": network, "fingerprint": model.fingerprint} | describe(model)
                 for (file, network), model in zip(sides, models, strict=True)]
    settings = {"name": "_on_".join(model_name(file) for file, _ in sides), "new": described[0],
                "old": described[1] if len(sides) == 2 else None, "pixel_scale": args.pixel_scale}
    return per_model[0], per_model[1] if len(sides) == 2 else None, settings


def view_of_new(args: argparse.Namespace, model: EmbeddingModel, dim: int) -> Map | None:
    """The compatible view of the new model, to ``dim`` dimensions of the old one; None if they are the same.

    UserError if there is none.
    """
    if model.dim == dim:
        return None
    view = find_view(args.model_file, (model.dim, dim), model.fingerprint)
    if view is None:
        raise UserError(f"{args.model_file} gives {model.dim} dimensions, {args.old_model_file} gives {dim}; expected the same "
                        f"number, or view_{dim}.npz next to the new model.pt, which a training with config.old_dim = {dim} "
                        f"writes (tools/compare can fit a map)")
    print(f"queries are compared through their view of {dim} dimensions, {view_file(folder_of(args.model_file), dim)}")
    return view


def model_name(file: str) -> str:
    """The name of a model in tables and files: NAME of NAME/model.pt, NAME.onnx or models/NAME/model,0."""
    path = Path(file.split(",")[0]).resolve()
    return path.parent.name if path.stem in ("model", "backbone") else path.stem


def kept_embeddings(args: argparse.Namespace, images: Images) -> tuple:
    """(new, old or None, settings): embeddings that an earlier run with -E wrote to the file of -R."""
    if args.old_model_file is not None or args.save_result is None or not Path(args.save_result).is_file():
        raise UserError("no new model: give one with -m FILE, or with -R FILE.npz (and without -m_old) a result that was written "
                        "with -E")
    try:
        arrays = read_npz(args.save_result, ("report", "embs", "embs_f", "embs_old", "embs_f_old"))
        settings = dict(json.loads(str(arrays["report"]))["settings"]) if "report" in arrays else {}
        sides = [(arrays[f"embs{side}"], arrays[f"embs_f{side}"]) for side in ("", "_old") if f"embs_f{side}" in arrays]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{args.save_result} is not a result file ({error}); write one with -m FILE -E") from error
    views = [view for side in sides for view in side]
    shapes = {view.shape for view in views}
    if len(shapes) != 1 or views[0].ndim != 2 or len(views[0]) != len(images):
        raise UserError(f"{args.save_result}: expected the embeddings of {len(images)} images and of their mirror images, found "
                        f"{sorted(shapes) or 'none'}; write it with -m FILE -E")
    for view in views:
        check_kind(view, args.save_result)
    check_finite(views, images.names, args.save_result)
    settings = {"name": Path(args.save_result).stem, "new": None, "old": None} | settings
    name = Path(str(settings["name"])).name         # it becomes part of file names
    settings["name"] = name if name and name.isprintable() else Path(args.save_result).stem
    return sides[0], sides[1] if len(sides) == 2 else None, settings


if __name__ == "__main__":
    run(main)
