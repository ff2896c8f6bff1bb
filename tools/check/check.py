"""Is everything there that a training needs?  Reads all of it and says in one table what is missing or wrong.

    python tools/check/check.py BCT_Methods/MixBCT/configs/OPclass_ms1mv3_r18_to_r50_MixBCT_softmax_to_arc_f128.py
    python tools/check/check.py configs/f128_r18_softmax_class30.py dataset=dataset/mine --ranks 1 --all

Settings, record file, labels, images (a sample; --all: every one), old features, marks and prototypes (every byte),
verification sets, room on the disk and GPU memory.  Exit code 0: ready; 1: something is missing or wrong.
"""

import argparse
import logging
import os
import runpy
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from easydict import EasyDict as edict
from prettytable import PrettyTable
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import engine.loop
from backbones import builder
from backbones.weights import fingerprint, load_state
from engine.checkpoint_files import changes, found_in, problem_of, refuse_another_training
from engine.cost import disks, gpu_bytes, held, log_bytes, new_backbone, new_margin, pretended_ranks, training_bytes
from engine.loop import open_dataset
from engine.method import Method
from engine.schedule import learning_rate, schedule_of
from engine.settings import check_settings, settings_of, wrong_numbers
from engine.trainer import make_optimizer
from losses import PartialFC
from old_model.features import OldFeatures, load_credible, load_prototypes, old_side
from old_model.names import sd_of
from records.bins import load_bin
from records.faces import CHUNK, MAX_BAD_IN_A_ROW, FaceRecords
from records.loader import MAX_BAD_SHARE, ShuffledBatches
from utils.command_line import at_least
from utils.config import load_config
from utils.errors import UserError, run
from utils.files import disk_errors
from utils.opencv import cv2
from utils.origin import check_whole, describe, load_origin
from utils.paths import locate

OK, WARNING, MISSING, WRONG = "ok", "warning", "missing", "wrong"
SAMPLE = 2000           # images that are decoded, and rows that are looked at for NaN, without --all
SHOWN = 3               # records that are named of many
ROOM = 1.2              # a disk should have so much more free than will be written

# What the old model may have left: how each is read as training reads it.
READERS = {
    "old_feature": lambda cfg: OldFeatures(**old_side(cfg, "old_feature"), dim=cfg.embedding_size).rows,
    "credible": lambda cfg: load_credible(**old_side(cfg, "credible")).numpy(),
    "prototypes": lambda cfg: load_prototypes(**old_side(cfg, "prototypes"), num_classes=cfg.num_classes,
                                              dim=cfg.embedding_size, classes=slice(None)).numpy(),
}


class Report:
    """Rows of what, found, verdict; a mistake becomes a row instead of the end."""

    def __init__(self):
        self.rows = []

    def add(self, what: str, found: str, verdict: str = OK) -> None:
        if (what, found, verdict) not in self.rows:
            self.rows.append((what, found, verdict))

    def attempt(self, what: str, look: Callable):
        """Add what ``look`` says, as (found, verdict), found, or None for no row; False when it raised an error."""
        try:
            said = look()
        except UserError as error:
            self.add(what, str(error), MISSING if str(error).startswith("no ") else WRONG)
            return False
        except Exception as error:          # settings and scripts can be wrong in any way, and the next row still counts
            self.add(what, f"{type(error).__name__}: {error}", WRONG)
            return False
        if said is not None:
            self.add(what, *(said if isinstance(said, tuple) else (said,)))
        return True

    def problems(self) -> int:
        return sum(verdict in (MISSING, WRONG) for _, _, verdict in self.rows)

    def __str__(self) -> str:
        table = PrettyTable(["what", "found", "verdict"], align="l", max_width=100)
        table.add_rows(self.rows)
        return table.get_string()


class Rows(logging.Handler):
    """Warnings that training would log, as rows."""

    def __init__(self, report: Report):
        super().__init__(logging.WARNING)
        self.report = report

    def emit(self, record: logging.LogRecord) -> None:
        self.report.add("settings", record.getMessage(), WARNING)


def read_settings(path: str, overrides: list[str], report: Report):
    """The settings with those of ``overrides`` that are right; the others become rows.  None without a config that runs."""
    right = [text for text in overrides if report.attempt("settings", lambda text=text: void(load_config(path, [text])))]
    loaded = []
    report.attempt("settings", lambda: void(loaded.append(load_config(path, right))))
    return loaded[0] if loaded else None


def void(_) -> None:
    """For what is only done to see whether it raises."""


def script_of(config: Path) -> Path:
    """The script that trains with this config: train.py beside the folder of configs, else train_old_*.py."""
    beside = config.resolve().parent.parent / "train.py"
    return beside if beside.is_file() else ROOT / f"train_old_{'softmax' if 'softmax' in config.stem else 'arc'}.py"


def classes_of(script: Path) -> tuple[type[Method], type[PartialFC]]:
    """(method, head) that the training script gives to the loop; the script is run, the loop is not."""
    if not script.is_file():
        raise UserError(f"no file {script}; name the training script with --script")
    given, loop = [], engine.loop.main
    engine.loop.main = lambda method=Method, head=PartialFC: given.append((method, head))
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        engine.loop.main = loop
    if not given:
        raise UserError(f"{script} trains nothing: expected a call of engine.loop.main in it")
    return given[0]


def look_at_settings(cfg, report: Report) -> None:
    """Everything that can be built from the settings alone is built, each by itself."""
    report.attempt("settings", lambda: check_settings(cfg))
    report.attempt("settings", lambda: void(builder(cfg.network) and new_backbone(cfg)))
    report.attempt("settings", lambda: void(new_margin(cfg)))
    weight = torch.nn.Linear(1, 1)
    report.attempt("settings", lambda: void(make_optimizer(cfg, weight, torch.nn.Module(), torch.nn.Module())))
    report.attempt("settings", lambda: void(learning_rate(1, **schedule_of(cfg, 100))))
    for sentence in wrong_numbers(cfg):
        report.add("settings", sentence, WRONG)


def look_at_output(cfg, method_class, head_class) -> tuple[str, str] | str:
    """The folder of the run: whether it can be written to, and what an earlier run has left in it."""
    folder = Path(cfg.output)
    with disk_errors(folder / "model.pt"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    found = found_in(folder / "checkpoints")
    if found and not cfg.resume:
        return f"{folder} holds a checkpoint (newest: {max(found, key=int)}): give resume=True to go on from it", WRONG
    problems = {name: problem_of(folder / "checkpoints" / name, about) for name, about in found.items()}
    damaged = "".join(f"; {problem}" for problem in problems.values() if problem)
    whole = [name for name in found if not problems[name]]
    if not whole:
        return (f"{folder}: no checkpoint is whole{damaged}", WRONG) if found else f"{folder}: a new run"
    newest = max(whole, key=int)
    refuse_another_training(folder / "checkpoints" / newest, changes(found[newest], settings_of(cfg, method_class, head_class)))
    return f"{folder}: goes on from a checkpoint ({newest} images seen){damaged}", WARNING if damaged else OK


def look_at_records(cfg, ranks: int, every: bool, report: Report):
    """Counts, labels and images of the training set, which is given back; None if it cannot be opened."""
    opened = []
    report.attempt("records", lambda: void(opened.append(open_dataset(cfg, logging.getLogger("bct")))))
    if not opened:
        return None
    faces, = opened
    path = faces.path if isinstance(faces, FaceRecords) else cfg.rec
    report.add("records", f"{path}: {len(faces):,} images, {cfg.num_classes:,} classes")
    report.attempt("step", lambda: f"{ranks} x {cfg.batch_size} images, "
                                   f"{len(ShuffledBatches(len(faces), cfg.batch_size, 0, ranks, cfg.seed)):,} steps an epoch")
    if isinstance(faces, FaceRecords):
        report.attempt("labels", lambda: look_at_labels(faces))
        report.attempt("images", lambda: look_at_images(faces, every))
    return faces


def look_at_labels(faces: FaceRecords) -> tuple[str, str]:
    """Labels outside 0 .. classes - 1, and images per class; with bad_records = "skip" a damaged record has the label NaN."""
    found = np.empty(len(faces), np.float32)
    for start in tqdm(range(0, len(faces), CHUNK), desc="labels", delay=3, disable=None):
        found[start:start + CHUNK] = faces.records.first_labels(faces.keys[start:start + CHUNK],
                                                                      forgive=faces.bad_records == "skip")
    right = (found >= 0) & (found < faces.num_classes) & (found == np.floor(found))
    if not right.all():
        wrong = np.flatnonzero(~right)
        named = ", ".join(f"record {faces.keys[i]} " + (f"has {found[i]:g}" if found[i] == found[i] else "cannot be read")
                          for i in wrong[:SHOWN])
        return (f"{right.sum():,} of {len(faces):,} are whole numbers from 0 to {faces.num_classes} - 1; {named}: correct "
                f"config.num_classes or make the file again", how_bad(faces, wrong, len(found)))
    counts = np.bincount(found.astype(np.int64), minlength=faces.num_classes)
    empty = np.count_nonzero(counts == 0)
    return (f"all in range; images per class: {counts.min()} to {counts.max()}, median {np.median(counts):g}"
            + f"; {empty} classes have no image" * bool(empty), WARNING if empty else OK)


def how_bad(faces: FaceRecords, bad: np.ndarray, count: int) -> str:
    """The verdict on the records ``bad`` out of ``count``: what the training does with them."""
    bad = np.sort(bad)
    in_a_row = len(bad) >= MAX_BAD_IN_A_ROW and (
        bad[MAX_BAD_IN_A_ROW - 1:] - bad[:1 - MAX_BAD_IN_A_ROW] < MAX_BAD_IN_A_ROW).any()
    return WARNING if faces.bad_records == "skip" and len(bad) <= MAX_BAD_SHARE * count / 2 and not in_a_row else WRONG


def look_at_images(faces: FaceRecords, every: bool) -> tuple[str, str]:
    """Decode images; a sample in this process, all of them in several."""
    rows = np.arange(len(faces)) if every else spread(len(faces))
    blocks = np.array_split(rows, -(-len(rows) // 256))
    processes = min(len(os.sched_getaffinity(0)), 16) if every else 1
    sizes, bad = {}, {}
    with Pool(processes, begin_decoding, (faces,)) as pool, tqdm(total=len(rows), desc="images", unit=" images", delay=1,
                                                                disable=None) as bar:
        for found, wrong in pool.imap(decode, blocks):
            bar.update(sum(found.values()) + len(wrong))
            bad |= wrong
            for size, count in found.items():
                sizes[size] = sizes.get(size, 0) + count
    if bad:
        return (f"{len(bad):,} of {len(rows):,} cannot be read: " + "; ".join(list(bad.values())[:SHOWN]),
                how_bad(faces, np.array(list(bad)), len(rows)))
    other = sum(count for size, count in sizes.items() if size != (faces.image_size,) * 2)
    return (f"{len(rows):,} of {len(faces):,} decoded"
            + f"; {other:,} are not {faces.image_size}x{faces.image_size} and are resized, which takes time" * bool(other),
            WARNING if other else OK)


def begin_decoding(faces: FaceRecords) -> None:
    """In each process, once: the index of a large file has 100 MB, too much to send with each block."""
    cv2.setNumThreads(0)
    decode.faces = faces


def decode(rows: np.ndarray) -> tuple[dict, dict[int, str]]:
    """({size: images}, {image: what is wrong with it} of those that cannot be read)."""
    sizes, bad = {}, {}
    for i in rows.tolist():
        try:
            size = decode.faces.decode(i).shape[:2]
            sizes[size] = sizes.get(size, 0) + 1
        except UserError as error:
            bad[i] = str(error)
    return sizes, bad


def spread(count: int) -> np.ndarray:
    """At most SAMPLE row numbers, evenly spread with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64))


def look_at_old_side(cfg, method_class: type[Method], every: bool, report: Report) -> Method | None:
    """What the old model left, as far as the method reads it, and the method itself; all within pretended ranks.

    What is wrong is replaced by zeros of the right shape, so that the method goes on and says what else it needs.
    """
    asked = Asked(cfg, kinds=set())
    if cfg.old_model is not None:
        asked.old_model = cfg.old_model if report.attempt("old model", lambda: look_at_model(cfg)) else None
    found, made = Report(), []
    with tempfile.TemporaryDirectory() as folder:
        for kind, read in READERS.items():
            if cfg[kind] is not None and not found.attempt(kind, lambda r=read, k=kind: look_at_array(r, k, asked, every)):
                asked[kind] = str(stand_in(Path(folder) / kind / Path(cfg[kind]).name, kind, cfg))
        asked.kinds.clear()
        report.attempt("method", lambda: void(made.append(method_class(asked))))
    for row in found.rows:
        if row[0] in asked.kinds or not made:
            report.add(*row)
    return made[0] if made else None


class Asked(edict):
    """Settings that note which of READERS a method looks up (old_side does so with cfg[kind])."""

    def __getitem__(self, key):
        if key in READERS:
            self.kinds.add(key)
        return super().__getitem__(key)


def look_at_model(cfg) -> tuple[str, str] | str:
    path = Path(cfg.old_model)
    if not path.is_file():
        return f"no file {path}: what it left cannot be compared with it", WARNING
    return f"{path}: fingerprint {fingerprint(load_state(path))[:12]}"


def look_at_array(read: Callable, kind: str, cfg, every: bool) -> tuple[str, str]:
    """One array of the old model: as training reads it, then every byte, then for NaN."""
    array, path = read(cfg), locate(cfg[kind], cfg.feature_save)
    check_whole(path, "the command that made it (README, step 2)", whole=True)
    for rows in np.array_split(np.arange(len(array)) if every else spread(len(array)), -(-len(array) // CHUNK)):
        if not np.isfinite(array[rows]).all():
            raise UserError(f"{path} holds NaN or infinity near row {rows[0]}; train the old model again with a lower "
                            f"config.lr, or extract its features again")
    if "sha256" not in load_origin(path):
        return f"{path}: {describe(array)}; no checksums beside it: it may be another model's or damaged", WARNING
    return f"{path}: {describe(array)}, checksum right"


def stand_in(path: Path, kind: str, cfg) -> Path:
    """An array of zeros that fits the training set, and labels beside it; on the disk it takes next to nothing."""
    path.parent.mkdir()
    shape, dtype = {"old_feature": ((cfg.num_image, cfg.embedding_size), np.float32), "credible": ((cfg.num_image,), bool),
                    "prototypes": ((cfg.num_classes, cfg.embedding_size), np.float32)}[kind]
    for name in (path, path.with_name(f"{sd_of(path)}_label.npy")):
        np.lib.format.open_memmap(name, "w+", dtype if name == path else np.int64, shape if name == path else shape[:1])
    return path


def look_at_verification(cfg, report: Report) -> None:
    for name in cfg.val_targets:
        path = Path(cfg.dataset) / f"{name}.bin"
        if path.is_file():
            report.attempt(name, lambda path=path: f"{path}: {len(load_bin(path, cfg.image_size)[1]):,} pairs")
        else:
            report.add(name, f"no file {path}: left out of the verification (config.val_targets)", WARNING)


def look_at_disk(cfg, ranks: int, method: Method | None) -> tuple[str, str]:
    """Room for the files of a training, while the last checkpoint is written beside those that are kept."""
    _, files = training_bytes(cfg, cfg.num_classes, ranks, 0 if method is None else held(method))
    need = files + log_bytes(cfg, cfg.num_image, ranks)
    there = sum(file.stat().st_size for file in Path(cfg.output).rglob("*") if file.is_file())     # of the run that goes on
    folder, size, free = disks({Path(cfg.output): need - there})[0]
    text = f"{1e-9 * size:.2f} GB for the model, checkpoints and logs in {cfg.output}, {1e-9 * free:.2f} GB free"
    return (text, OK) if free >= ROOM * size else (f"{text}; free some, or choose another config.output", WRONG)


def look_at_gpu(cfg, ranks: int, head_class, method: Method | None) -> tuple[str, str]:
    """Memory of one GPU, counted (see engine/cost.py), against that of the GPU here."""
    parts = gpu_bytes(cfg, cfg.num_classes, ranks, head_class, method)
    total = sum(parts.values())
    text = (f"{1e-9 * total:.1f} GB on each of {ranks}: "
            + ", ".join(f"{part} {1e-9 * size:.2f}" for part, size in parts.items()))
    if not torch.cuda.is_available():
        return f"{text}; no GPU here to compare with", OK
    there = torch.cuda.mem_get_info()[1]
    if total > there:
        return f"{text}; the GPU here has {1e-9 * there:.1f} GB: lower config.batch_size", WRONG
    return f"{text}; the GPU here has {1e-9 * there:.1f} GB", WARNING if total > 0.9 * there else OK


def check(args: argparse.Namespace) -> Report:
    report = Report()
    log = logging.getLogger("bct")
    log.handlers, log.propagate = [Rows(report)], False
    cfg = read_settings(args.config, args.overrides, report)
    if cfg is None:
        return report
    script, classes = Path(args.script) if args.script else script_of(Path(args.config)), []
    if report.attempt("method", lambda: void(classes.append(classes_of(script)))):
        report.add("config", f"{args.config}: {classes[0][0].__name__}, trained by {os.path.relpath(script)}")
    method_class, head_class = classes[0] if classes else (Method, PartialFC)
    look_at_settings(cfg, report)
    settings_right = not report.problems()
    faces = look_at_records(cfg, args.ranks, args.all, report)
    report.attempt("output", lambda: look_at_output(cfg, method_class, head_class))
    report.attempt("verification", lambda: look_at_verification(cfg, report))
    with pretended_ranks(args.ranks):
        method = None
        if faces is not None:
            method = look_at_old_side(cfg, method_class, args.all, report)
        elif method_class is not Method:
            report.add("old features", "not compared: they belong to records that are missing or wrong", MISSING)
        if faces is not None and settings_right:
            report.attempt("disk", lambda: look_at_disk(cfg, args.ranks, method))
            report.attempt("GPU memory", lambda: look_at_gpu(cfg, args.ranks, head_class, method))
    return report


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("config", help="config file of a training: an old model's or a method's")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="settings that win over the file, as for the training")
    add("--ranks", type=at_least(1, int), default=8, help="processes (GPUs) of the training, on all nodes together")
    add("--all", action="store_true", help=f"decode every image, in several processes, instead of {SAMPLE}; look at every row of "
        f"the old features for NaN")
    add("--script", metavar="FILE", help="training script (default: train.py beside the config's folder, else train_old_*.py)")
    return parser.parse_intermixed_args()


def main() -> None:
    report = check(parse_arguments())
    print(report)
    if report.problems():
        raise UserError(f"{report.problems()} of {len(report.rows)} rows are missing or wrong: see the table")
    print("ready")


if __name__ == "__main__":
    run(main)
