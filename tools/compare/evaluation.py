"""What the models are compared on: an IJB folder, or plain feature files with labels.

IJB folder      <data>/IJBC/{loose_crop,meta}, as the evaluator reads it
feature files   <data>/gallery_label.npy  int [G], <data>/probe_label.npy  int [Q]: whom each feature shows
                <data>/pairs.npy          int [P, 3], gallery row, probe row, 1 = same person (optional: 1:1)

Everything here is the same for all models; their features come from versions.py.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tools.ijbc_eval.metrics import FARS, FPIRS, RANKS, ROUNDING
from tools.ijbc_eval.protocol import Images, Pairs, People, Search, read_images, read_pairs, read_search
from tools.ijbc_eval.report import rate
from utils.arrays import open_npy
from utils.errors import UserError
from utils.old_features import check_whole, is_ours

RELIABLE = 30       # errors that a figure should rest on: fewer false accepts make TAR@FAR a matter of luck
FEW = 10            # subjects below which an interval is too narrow to rest a verdict on


@dataclass(frozen=True)
class Evaluation:
    """Who is compared with whom.  Rows: of templates or of feature files; the gallery side first."""

    name: str
    pairs: Pairs | None                 # None: no 1:1
    search: Search
    subjects: tuple[np.ndarray, np.ndarray]     # int64 [G], [Q]: subject of each row, 0 .. count - 1
    ids: tuple[np.ndarray, np.ndarray]          # int64 [G], [Q]: what a row is called in lists
    images: np.ndarray                  # int64 [G], images that a gallery row was made of
    qualities: dict[str, np.ndarray] = field(default_factory=dict)      # name -> float [G], higher is better
    source: Images | None = None        # IJB: the images to embed; None: plain feature files

    def compared_subjects(self) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """(subjects of probes and pairs; place among them of each gallery row's and each query row's, -1: in neither)."""
        used = [self.subjects[1][self.search.probes.templates]]
        if self.pairs is not None:
            used += [self.subjects[0][self.pairs.enrol], self.subjects[1][self.pairs.verify]]
        names = np.unique(np.concatenate(used))
        places = [np.searchsorted(names, side).clip(max=len(names) - 1) for side in self.subjects]
        return names, tuple(np.where(names[at] == side, at, -1) for at, side in zip(places, self.subjects, strict=True))

    def subjects_behind(self) -> dict[str, int]:
        """{"TAR": subjects with a pair of their own, "top" and "TPIR": subjects of probes with a mate}."""
        probes = self.search.probes
        mated = np.unique(probes.subjects[np.isin(probes.subjects, np.concatenate(
            [people.subjects for people in self.search.galleries.values()]))])
        pairs = 0 if self.pairs is None else len(np.unique(self.subjects[0][self.pairs.enrol[self.pairs.same]]))
        return {"TAR": pairs, "top": len(mated), "TPIR": len(mated)}

    def gallery_rows(self) -> np.ndarray:
        """Rows that some protocol uses on the gallery side, ascending."""
        used = [people.templates for people in self.search.galleries.values()]
        return np.unique(np.concatenate(used + ([self.pairs.enrol] if self.pairs is not None else [])))

    def negatives(self) -> dict[str, int]:
        """{"1:1": pairs of two people, "1:N": probes without a mate in the gallery that has fewest of them}."""
        probes = self.search.probes.subjects
        without = min(int((~np.isin(probes, people.subjects)).sum()) for people in self.search.galleries.values())
        return {"1:1": 0 if self.pairs is None else int((~self.pairs.same).sum()), "1:N": without}

    def metrics(self) -> list[str]:
        """Names of the figures that the data can tell, 1:1 first."""
        negatives = self.negatives()
        mated = [np.isin(self.search.probes.subjects, people.subjects).any() for people in self.search.galleries.values()]
        tar = [f"TAR@{rate(x)}" for x in FARS if x * negatives["1:1"] + ROUNDING >= 1]
        tpir = [f"TPIR@{rate(x)}" for x in FPIRS if x < 1 and x * negatives["1:N"] + ROUNDING >= 1]
        return tar + [f"top-{k}" for k in RANKS if any(mated)] + (tpir if all(mated) else [])

    def headline(self) -> list[str]:
        """One figure each for 1:1, closed and open search: TAR and TPIR at the smallest rate that rests on RELIABLE errors."""
        names, reliable = self.metrics(), self.reliable()
        chosen = []
        for kind in ("TAR", "top-1", "TPIR"):
            found = [name for name in names if name.split("@")[0] == kind]
            chosen += ([name for name in found if name in reliable] or found[-1:])[:1]
        return chosen

    def reliable(self) -> list[str]:
        """The figures that rest on RELIABLE errors and FEW subjects at least: the verdict on all of them counts these."""
        errors, subjects = {"TAR": self.negatives()["1:1"], "TPIR": self.negatives()["1:N"]}, self.subjects_behind()
        return [name for name in self.metrics() if subjects[kind_of(name)] >= FEW
                and (kind_of(name) == "top" or float(name.split("@")[1]) * errors[kind_of(name)] + ROUNDING >= RELIABLE)]

    def notes(self) -> list[str]:
        """What the data is too small for, in words."""
        negatives, out = self.negatives(), []
        if self.pairs is None:
            out.append("no pairs.npy: 1:1 is left out")
        elif negatives["1:1"] * FARS[0] + ROUNDING < 1:
            out.append(f"{negatives['1:1']:,} pairs of two people: the smallest FAR that they support is "
                       f"{1 / negatives['1:1']:.3g}")
        if negatives["1:N"] == 0:
            out.append("in some gallery every probe has a mate: no FPIR can be told")
        elif negatives["1:N"] * FPIRS[0] + ROUNDING < 1:
            out.append(f"{negatives['1:N']:,} probes without a mate: the smallest FPIR that they support is "
                       f"{1 / negatives['1:N']:.3g}")
        mated = np.zeros(len(self.search.probes.subjects), bool)    # in some gallery
        for name, people in self.search.galleries.items():
            mated |= np.isin(self.search.probes.subjects, people.subjects)
            if len(np.unique(people.subjects)) == 1:
                out.append(f"gallery {name} has a single subject: top-k in it means nothing")
        behind, words = self.subjects_behind(), {"TAR": "a pair of their own", "top": "a mate among the probes"}
        out += [f"only {behind[kind]} subjects have {what}: too few for a verdict" for kind, what in words.items()
                if 0 < behind[kind] < FEW]
        if not mated.all():
            out.append(f"{(~mated).sum():,} of {len(mated):,} probes have no mate in any gallery; they count as strangers only")
        return out


def kind_of(metric: str) -> str:
    """TAR, top or TPIR."""
    return metric.replace("-", "@").split("@")[0]


def read_evaluation(data: Path, subset: str) -> Evaluation:
    """The evaluation in the folder ``data``, of whichever kind it is."""
    if (data / "gallery_label.npy").is_file() or (data / "probe_label.npy").is_file():
        return read_plain(data)
    if not any((folder / "meta").is_dir() for folder in (data, data / subset)):
        raise UserError(f"{data} holds neither {subset} (its folders meta and loose_crop) nor feature files' labels "
                        f"(gallery_label.npy, probe_label.npy); give the folder of one of them with --data")
    images = read_images(data, subset)
    name = f"{subset} in {data.resolve().name}"
    return ijb_evaluation(images, read_pairs(data, subset, images), read_search(data, subset, images), name)


def ijb_evaluation(images: Images, pairs: Pairs, search: Search, name: str) -> Evaluation:
    count = np.bincount(images.templates, minlength=len(images.template_ids))
    score = np.bincount(images.templates, images.scores, len(count)) / count
    media = np.unique(np.stack([images.templates.astype(np.int64), images.media]), axis=1)[0]
    subjects = subjects_of_templates(len(count), pairs, search)
    return Evaluation(name, pairs, search, (subjects, subjects), (images.template_ids, images.template_ids), count,
                      {"detector score": score, "number of media": np.bincount(media, minlength=len(count))}, images)


def subjects_of_templates(templates: int, pairs: Pairs, search: Search) -> np.ndarray:
    """Subject of each template, int64 [T] from 0: the 1:N lists name subjects, pairs of one person join templates."""
    lists = [*search.galleries.values(), search.probes]
    names, subject = np.unique(np.concatenate([people.subjects for people in lists]), return_inverse=True)
    left = np.concatenate([pairs.enrol[pairs.same], *(people.templates for people in lists)])
    right = np.concatenate([pairs.verify[pairs.same], templates + subject])
    nodes = templates + len(names)
    _, component = connected_components(coo_array((np.ones(len(left), bool), (left, right)), (nodes, nodes)), directed=False)
    return np.unique(component[:templates], return_inverse=True)[1]


def read_plain(data: Path) -> Evaluation:
    """Labels (and pairs) of plain feature files."""
    labels = [load_labels(data / f"{side}_label.npy") for side in ("gallery", "probe")]
    names, index = np.unique(np.concatenate(labels), return_inverse=True)
    subjects = index[:len(labels[0])], index[len(labels[0]):]
    rows = [np.arange(len(side)) for side in labels]
    search = Search({"gallery": People(rows[0], labels[0])}, People(rows[1], labels[1]))
    return Evaluation(data.resolve().name, read_plain_pairs(data / "pairs.npy", labels), search, subjects, tuple(rows),
                      np.ones(len(rows[0]), np.int64))


def load_labels(file: Path) -> np.ndarray:
    if not file.is_file():
        raise UserError(f"no file {file}: expected gallery_label.npy and probe_label.npy, an int for whom each feature shows")
    labels = load_npy(file, "a list of ints, one per feature")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise UserError(f"{file} holds {labels.dtype} {list(labels.shape)}; expected a list of ints, one per feature")
    return np.asarray(labels, np.int64)


def read_plain_pairs(file: Path, labels: list[np.ndarray]) -> Pairs | None:
    if not file.is_file():
        return None
    table = load_npy(file, "rows of gallery row, probe row, 1 or 0")
    sizes = [len(labels[0]), len(labels[1]), 2]
    if table.ndim != 2 or table.shape[1] != 3 or table.dtype.kind not in "iu" or not len(table) \
            or table.min() < 0 or (table.max(0) >= sizes).any():
        raise UserError(f"{file} must hold rows of gallery row, probe row, 1 (same person) or 0, as ints below {sizes}")
    same = table[:, 2] == 1
    if same.all() or not same.any():
        raise UserError(f"{file}: expected pairs of one person and of two, found only those of {'one' if same.all() else 'two'}")
    torn = np.flatnonzero(same != (labels[0][table[:, 0]] == labels[1][table[:, 1]]))
    if len(torn):
        raise UserError(f"{file} row {torn[0]} calls gallery row {table[torn[0], 0]} and probe row {table[torn[0], 1]} "
                        f"{'one person' if same[torn[0]] else 'two people'}, their labels say the opposite; make it again")
    return Pairs(table[:, 0].astype(np.int32), table[:, 1].astype(np.int32), same)


def load_npy(file: Path, expected: str = "features [N, d]") -> np.ndarray:
    """A .npy file of numbers, memory-mapped; nothing in it is executed.  expected: in words, for the message."""
    try:
        array = open_npy(file)
    except ValueError as error:
        raise UserError(f"{file} is not a whole .npy file of numbers ({error}); expected {expected}") from error
    if is_ours(file):
        check_whole(file, "the command that wrote it", whole=False)
    return array
