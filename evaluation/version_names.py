"""Versions of a model as they are named on the command line.

NAME=FILE:NETWORK   .pt checkpoint of that network; .onnx and MXNet's PREFIX,EPOCH need no network. Words on its input can
                    follow, for example NAME=FILE.onnx,input=raw,bgr (inputs.py)
NAME=FILE.npy       embeddings of all images of the IJB folder, float [N, d] or, with mirror images, [2, N, d]
NAME=FILE.npz       result of ijbc_eval.py -E
NAME=FOLDER         if the data are feature files: folder of gallery.npy [G, d] and probe.npy [Q, d]
NAME=FILE,FILE,...  several trainings of one version, which differ in their seed
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from evaluation.inputs import WORD, InputOptions, cut_options
from evaluation.models import EmbeddingModel, open_model
from utils.errors import UserError

MAX_NAME = 60                   # bytes of a version's name


@dataclass(frozen=True)
class Version:
    """A version as it is named on the command line."""

    name: str
    file: str                   # or folder, or MXNet's PREFIX,EPOCH
    network: str | None         # of a .pt file
    words: str = ""             # on its input, for InputOptions.parse

    @classmethod
    def parse(cls, text: str) -> list["Version"]:
        """The trainings that NAME=FILE[:NETWORK][,WORD ...][,FILE ...] names; UserError if ``text`` has another form.

        A network or words after the last file are those of all files without any.
        """
        name, equals, rest = text.partition("=")
        if not equals or not name or not rest:
            raise UserError(f"expected NAME=FILE or NAME=FILE:NETWORK, found '{text}'")
        check_name(name)
        out = [cls.parse_file(name, part, text) for part in split_files(rest)]
        last = out[-1]
        return [cls(name, version.file, version.network or last.network, version.words or last.words) for version in out]

    @classmethod
    def parse_file(cls, name: str, part: str, text: str) -> "Version":
        """The version in one FILE[:NETWORK][,WORD ...]; text: the whole argument, for messages."""
        rest, words = (part, "") if Path(part).exists() else cut_options(part)
        InputOptions.parse(words, text)                 # a wrong word is reported before hours of embedding
        file, colon, network = rest.rpartition(":")
        version = cls(name, file, network, words) if colon and not Path(rest).exists() else cls(name, rest, None, words)
        if words and (version.is_array or Path(version.file).is_dir()):
            raise UserError(f"{text}: {version.file} holds embeddings, which have no input; leave out ,{words}")
        return version

    @property
    def is_array(self) -> bool:
        """Whether the file holds embeddings."""
        return Path(self.file).suffix.lower() in (".npy", ".npz")

    def open(self, args: argparse.Namespace) -> EmbeddingModel:
        """The model in the file.  args: devices, fp16, pixel_scale."""
        if Path(self.file).suffix.lower() in (".pt", ".pth") and self.network is None:
            raise UserError(f"expected the network of {self.file} after a colon, found none; give "
                            f"{self.name}={self.file}:NETWORK, for example :r50")
        options = InputOptions.parse(self.words, f"{self.name}={self.file}", args.pixel_scale)
        return open_model(self.file, self.network or "", args.devices, args.fp16, options)


def check_name(name: str) -> None:
    """UserError if a version's name cannot be part of file names, before hours of computing."""
    if "/" in name or "\\" in name or not name.isprintable():
        raise UserError(f"expected a name without a slash or control characters in front of the =, because it becomes part of "
                        f"file names; found {name[:80]!r}")
    if len(name.encode()) > MAX_NAME:
        raise UserError(f"expected a name of at most {MAX_NAME} bytes in front of the =, because it becomes part of file names "
                        f"and of tables; found {len(name.encode())} bytes, '{name[:40]}...'")


def split_files(text: str) -> list[str]:
    """The files in a list with commas, each with its words; MXNet's PREFIX,EPOCH and a file whose name has a comma stay one.

    UserError if one of them is empty.
    """
    if Path(text).exists():
        return [text]
    out: list[str] = []
    for part in text.split(","):
        if out and (part.isdigit() or WORD.fullmatch(part)) and not Path(part).exists():
            out[-1] += f",{part}"
        else:
            out.append(part)
    if not all(out):
        raise UserError(f"expected files separated by commas, found nothing between two of them in '{text}'")
    if len(set(out)) < len(out):
        raise UserError(f"expected a different file for each training, found one twice in '{text}'")
    return out
