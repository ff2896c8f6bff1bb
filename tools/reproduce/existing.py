"""--old: a reproduction from an old model that exists, a model file or nothing but its vectors, instead of one trained here."""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from evaluation.feature_files import load_npy
from evaluation.protocol import read_images
from evaluation.version_names import Version
from old_model.names import artefact, credible_kind
from old_model.vectors import read_vectors
from utils.arrays import read_npz
from utils.errors import UserError
from utils.files import file_hash
from utils.origin import load_origin
from utils.paths import ROOT

SCENARIO = "EXclass"            # what the old model saw is not known, and the new one sees all images
SD = "old_class100"
VECTORS = (".npy", ".npz", ".csv", ".tsv", ".parquet")
MODELS = (".onnx", ".pt", ".pth")


@dataclass(frozen=True)
class ExistingOld:
    """The old model of --old.

    model: FILE[:NETWORK][,WORDS] with an absolute path; "": there are vectors only.  vectors, ids: of the training images;
    missing: what to do about images without a vector.  evaluation: its embeddings of the evaluation images.  notes: what was
    decided about the model, to print.
    """

    name: str
    dim: int
    fingerprint: str
    model: str = ""
    vectors: Path | None = None
    ids: Path | None = None
    missing: str = "refuse"
    evaluation: Path | None = None
    notes: tuple[str, ...] = ()

    def features(self, save: Path, kind: str = "feature") -> Path:
        """The file of an array that it leaves for the new models.  save: folder of the old features."""
        return artefact(str(save), SD, kind)

    def settings(self, save: Path) -> tuple[str, ...]:
        """Settings by which a new model is trained against it."""
        return ("old_model=None", f"embedding_size={self.dim}", f"old_dim={self.dim}", f"old_feature={self.features(save)}",
                f"credible={self.features(save, credible_kind(0.9))}", f"prototypes={self.features(save, 'avg_feature')}")

    def feature_command(self, launcher: list[str], records: Path, save: Path, settings: tuple[str, ...]) -> list[str]:
        """The command that writes its features of the training images.  settings: KEY=VALUE of a training."""
        if self.model:
            return [*launcher, "tools/get_feature/get_feature.py", "configs/f512_r18_arc_class30.py", "--SD", SD, "--force",
                    "--model", self.model, *settings]
        ids = ["--ids", str(self.ids)] if self.ids else []
        return [sys.executable, "tools/import_features/import_features.py", str(self.vectors), *ids, "--dataset",
                str(records.resolve()), "--SD", SD, "--feature-save", str(save), "--missing", self.missing, "--force"]

    def problems(self, args: argparse.Namespace, save: Path) -> list[str]:
        """A sentence for each thing that would end the run later."""
        found = []
        if self.vectors:
            command = [*self.feature_command([], args.records, save, ()), "--dry-run"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            print(done.stdout, end="")
            *warnings, last = done.stderr.splitlines() or [""]
            if done.returncode:
                found.append(last.removeprefix("error: ").replace("give --missing leave-out", "give --old-missing leave-out"))
            else:
                warnings.append(last)
            print("\n".join(filter(None, warnings)), end="\n" * any(warnings), file=sys.stderr)
        file = self.features(save)
        if file.is_file() and load_origin(file).get("model") != self.fingerprint:
            found.append(f"{file} holds features of another old model than --old {args.old}; give another --out, or remove "
                         f"{args.out or 'the folder of the results'}")
        if self.evaluation:
            try:
                self.check_evaluation(len(read_images(args.ijb, args.subset)))
            except UserError as error:
                found.append(str(error))
        return found

    def check_evaluation(self, images: int) -> None:
        """UserError unless ``evaluation`` holds embeddings of this many images, of the dimensions of the vectors."""
        assert self.evaluation is not None
        if self.evaluation.suffix == ".npz":
            try:
                shape = read_npz(self.evaluation, ("embs", "embs_f"))["embs"].shape
            except (ValueError, KeyError, OSError) as error:
                raise UserError(f"--old-eval {self.evaluation} is not a result of ijbc_eval.py -E ({error}); give embeddings as "
                                f".npy") from error
        else:
            shape = load_npy(self.evaluation).shape
        if len(shape) not in (2, 3) or shape[-2:] != (images, self.dim):
            raise UserError(f"--old-eval {self.evaluation} holds {list(shape)}; expected the old model's embeddings of the "
                            f"{images} evaluation images in the order of the landmark file, [{images}, {self.dim}] or "
                            f"[2, {images}, {self.dim}], as the vectors of the training images have {self.dim} dimensions")


def existing_old(args: argparse.Namespace) -> ExistingOld | None:
    """The old model of --old; None without it.  UserError if what it needs is missing or does not fit the other options."""
    if args.old is None:
        if given := options_of_vectors(args):
            raise UserError(f"{given[0]} belongs to an old model that exists; give --old, too")
        return None
    if args.scenario != SCENARIO:
        raise UserError(f"--old: what an existing model saw is not known, so all images are new training data; expected the "
                        f"scenario {SCENARIO}, found {args.scenario}")
    if any(text.partition("=")[0].rpartition(":")[2] == "old_dim" for text in args.settings):
        raise UserError("old_dim is that of the old model with --old; leave it out")
    if any(text.partition("=")[0] == "embedding_size" for text in args.settings):
        raise UserError("embedding_size is that of the old model with --old; for other dimensions of the new models give "
                        "new:embedding_size=N")
    version = Version.parse_file("old", args.old, f"--old {args.old}")
    if not version.file.lower().endswith(VECTORS):
        return of_model(args, version)
    if version.network or version.words:
        raise UserError(f"--old {args.old}: vectors have no network and no input; leave out what follows {version.file}")
    return of_vectors(args, Path(version.file))


def options_of_vectors(args: argparse.Namespace) -> list[str]:
    """Those options that were given and that only an --old of vectors has."""
    names = "--old-ids", "--old-missing", "--old-eval"
    return [name for name in names if getattr(args, name[2:].replace("-", "_")) is not None]


def of_model(args: argparse.Namespace, version: Version) -> ExistingOld:
    """The old model in a model file, which is opened."""
    if given := options_of_vectors(args):
        raise UserError(f"{given[0]} belongs to vectors, and --old {args.old} is a model, which embeds all images; leave it out")
    if version.network is None and not version.file.lower().endswith(MODELS):
        raise UserError(f"--old {args.old}: expected an .onnx file, a .pt file with its network (FILE:NETWORK), or vectors as "
                        f"{', '.join(VECTORS)}")
    model = version.open(argparse.Namespace(devices=[torch.device("cpu")], fp16=False, pixel_scale=127.5))
    text = str(Path(version.file).resolve()) + (f":{version.network}" if version.network else "") + (
        f",{version.words}" if version.words else "")
    if [part.file for part in Version.parse(f"old={text}")] != [str(Path(version.file).resolve())]:
        raise UserError(f"--old {args.old}: expected a path without a comma or an equals sign; rename the file or its folder")
    return ExistingOld(Path(version.file).name, model.dim, model.fingerprint, model=text, notes=tuple(model.notes))


def of_vectors(args: argparse.Namespace, file: Path) -> ExistingOld:
    """The old model of which only vectors exist."""
    if args.old_eval is None:
        raise UserError(f"--old {file} holds vectors of the training images; the comparison also needs the old model's "
                        f"embeddings of the evaluation images: give --old-eval FILE.npy, [images, d] in the order of the "
                        f"landmark file of --ijb; from vectors with ids it is made by tools/import_features/import_features.py "
                        f"VECTORS --ijb {args.ijb} --out FILE.npy")
    if not args.old_eval.is_file() or args.old_eval.suffix.lower() not in (".npy", ".npz"):
        raise UserError(f"--old-eval {args.old_eval}: expected a file of embeddings, .npy or .npz of ijbc_eval.py -E")
    if "," in str(args.old_eval.resolve()):
        raise UserError(f"--old-eval {args.old_eval}: expected a path without a comma; rename the file or its folder")
    dim = read_vectors(file, args.old_ids).values.shape[1]
    hashed = [file] if args.old_ids is None else [file, args.old_ids]
    return ExistingOld(file.name, dim, file_hash(hashed), vectors=file.resolve(), evaluation=args.old_eval.resolve(),
                       ids=args.old_ids.resolve() if args.old_ids else None, missing=args.old_missing or "refuse")
