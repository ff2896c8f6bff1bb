"""The evaluation set on which models are compared: an IJB folder, or feature files with labels.

IJB folder      <data>/IJBC/{loose_crop,meta}, in the layout of protocol.py
feature files   <data>/gallery_label.npy ..., in the layout of feature_files.py

The evaluation set is the same for all models; versions.py reads their features on it.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from evaluation.feature_files import read_labels, read_plain_pairs
from evaluation.formats import rate
from evaluation.identification import FPIRS, RANKS
from evaluation.protocol import Images, Pairs, People, Search, read_images, read_pairs, read_search
from evaluation.verification import FARS, ROUNDING
from utils.errors import UserError

MIN_ERRORS = 30     # errors that a reliable figure rests on: with fewer false accepts, TAR@FAR is a matter of luck
MIN_SUBJECTS = 10   # subjects that a verdict rests on: with fewer, bootstrap intervals are too narrow


@dataclass(frozen=True)
class Evaluation:
    """The protocols and the subject of each row.

    A row is a template or a row of a feature file. Pairs of arrays are (gallery side [G], query side [Q]); in an IJB folder
    both sides are all templates.
    """

    name: str
    pairs: Pairs | None                         # None: no 1:1 protocol
    search: Search
    subjects: tuple[np.ndarray, np.ndarray]     # int64 [G], [Q]: subject of each row, 0 to count - 1
    ids: tuple[np.ndarray, np.ndarray]          # int64 or text [G], [Q]: name of each row in lists
    images: np.ndarray                          # int64 [G], number of images that a gallery row is made of
    qualities: dict[str, np.ndarray] = field(default_factory=dict)      # name -> float [G], higher is better
    source: Images | None = None                # IJB: the images to embed; None: feature files
    row_ids: tuple[np.ndarray | None, np.ndarray | None] = (None, None)     # feature files: ids to match their rows by
    labels: np.ndarray | None = None            # [Q], subject of each query row as the user wrote it; None: as in ``search``
    data_notes: tuple[str, ...] = ()            # what was assumed about the data, as sentences without a full stop

    def compared_subjects(self) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """(the subjects of all probes and pairs, ascending; for each side, the place of each row's subject among them, or -1)."""
        used = [self.subjects[1][self.search.probes.templates]]
        if self.pairs is not None:
            used += [self.subjects[0][self.pairs.enrol], self.subjects[1][self.pairs.verify]]
        names = np.unique(np.concatenate(used))
        return names, (places_in(names, self.subjects[0]), places_in(names, self.subjects[1]))

    def subjects_behind(self) -> dict[str, int]:
        """Number of subjects that a kind of figure rests on: "TAR": with a genuine pair; "top", "TPIR": with a mated probe."""
        probes = self.search.probes
        mated = np.unique(probes.subjects[np.isin(probes.subjects, np.concatenate(
            [people.subjects for people in self.search.galleries.values()]))])
        pairs = 0 if self.pairs is None else len(np.unique(self.subjects[0][self.pairs.enrol[self.pairs.same]]))
        return {"TAR": pairs, "top": len(mated), "TPIR": len(mated)}

    def gallery_rows(self) -> dict[str, np.ndarray]:
        """{"1:1", "1:N": the rows with images that the protocol uses on the gallery side, ascending}."""
        used = {"1:N": np.concatenate([people.templates for people in self.search.galleries.values()])}
        if self.pairs is not None:
            used = {"1:1": self.pairs.enrol} | used
        return {protocol: np.unique(rows[self.images[rows] > 0]) for protocol, rows in used.items()}

    def negatives(self) -> dict[str, int]:
        """{"1:1": number of impostor pairs, "1:N": number of non-mated probes in the gallery that has the fewest}."""
        probes = self.search.probes.subjects
        never = self.search.probes.never
        known = np.ones(len(probes), bool) if never is None else ~never
        nonmated = min(int((~np.isin(probes, people.subjects) & known).sum()) for people in self.search.galleries.values())
        return {"1:1": 0 if self.pairs is None else int((~self.pairs.same).sum()), "1:N": nonmated}

    def metrics(self) -> list[str]:
        """Names of the figures that the data supports, for example TAR@1e-4 and top-1; 1:1 first."""
        negatives = self.negatives()
        mated = [np.isin(self.search.probes.subjects, people.subjects).any() for people in self.search.galleries.values()]
        tar = [f"TAR@{rate(x)}" for x in FARS if x * negatives["1:1"] + ROUNDING >= 1]
        tpir = [f"TPIR@{rate(x)}" for x in FPIRS if x < 1 and x * negatives["1:N"] + ROUNDING >= 1]
        return tar + [f"top-{k}" for k in RANKS if any(mated)] + (tpir if all(mated) else [])

    def headline(self) -> list[str]:
        """One figure for each of 1:1, closed and open search: TAR and TPIR at the smallest reliable rate, and top-1."""
        names, reliable = self.metrics(), self.reliable()
        chosen = []
        for kind in ("TAR", "top-1", "TPIR"):
            candidates = [name for name in names if name.split("@")[0] == kind]
            chosen += ([name for name in candidates if name in reliable] or candidates[-1:])[:1]
        return chosen

    def reliable(self) -> list[str]:
        """The figures that rest on MIN_ERRORS errors and MIN_SUBJECTS subjects: the overall verdict counts only these."""
        errors, subjects = {"TAR": self.negatives()["1:1"], "TPIR": self.negatives()["1:N"]}, self.subjects_behind()
        return [name for name in self.metrics() if subjects[kind_of(name)] >= MIN_SUBJECTS
                and (kind_of(name) == "top" or float(name.split("@")[1]) * errors[kind_of(name)] + ROUNDING >= MIN_ERRORS)]

    def notes(self) -> list[str]:
        """What the data is too small for, as sentences without a full stop."""
        negatives, out = self.negatives(), []
        if self.pairs is None:
            out.append("There is no pairs.npy, so the 1:1 protocol is left out")
        elif negatives["1:1"] * FARS[0] + ROUNDING < 1:
            out.append(f"The data has {negatives['1:1']:,} impostor pairs: the smallest FAR that they support is "
                       f"{1 / negatives['1:1']:.3g}")
        if negatives["1:N"] == 0:
            out.append("In at least one gallery every probe has a mate, so no FPIR can be computed")
        elif negatives["1:N"] * FPIRS[0] + ROUNDING < 1:
            out.append(f"The data has {negatives['1:N']:,} non-mated probes: the smallest FPIR that they support is "
                       f"{1 / negatives['1:N']:.3g}")
        mated = np.zeros(len(self.search.probes.subjects), bool)    # in at least one gallery
        for name, people in self.search.galleries.items():
            mated |= np.isin(self.search.probes.subjects, people.subjects)
            if len(np.unique(people.subjects)) == 1:
                out.append(f"Gallery {name} has a single subject, so top-k in it means nothing")
        behind = self.subjects_behind()
        out += [f"The number of subjects with a {kind} is {behind[metric]}: too few for a verdict, which needs {MIN_SUBJECTS}"
                for metric, kind in (("TAR", "genuine pair"), ("top", "mated probe")) if 0 < behind[metric] < MIN_SUBJECTS]
        if not mated.all():
            out.append(f"{(~mated).sum():,} of {len(mated):,} probes have no mate in any gallery; they count as non-mated probes "
                       f"only")
        return out


def protocol_of(metric: str) -> str:
    """The protocol of a metric: "1:1" of TAR, "1:N" of top-k and TPIR."""
    return "1:1" if kind_of(metric) == "TAR" else "1:N"


def places_in(names: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """Place of each subject in ``names`` (ascending), int64; -1: not among them."""
    place = np.searchsorted(names, subjects).clip(max=len(names) - 1)
    return np.where(names[place] == subjects, place, -1)


def kind_of(metric: str) -> str:
    """The kind of a metric, TAR, top or TPIR: "TAR" of "TAR@1e-4"."""
    return metric.replace("-", "@").split("@")[0]


def read_evaluation(data: Path, subset: str, count_missing: bool = False) -> Evaluation:
    """The evaluation set in the folder ``data``: feature files, or else the IJB subset.  UserError if it is neither.

    count_missing: see protocol.read_images.
    """
    if (data / "gallery_label.npy").is_file() or (data / "probe_label.npy").is_file():
        return read_plain(data)
    if not any((folder / "meta").is_dir() for folder in (data, data / subset)):
        raise UserError(f"{data} holds neither {subset} (its folders meta and loose_crop) nor labels of feature files "
                        f"(gallery_label.npy, probe_label.npy); give a folder that holds one of them with --data")
    images = read_images(data, subset, count_missing)
    name = f"{subset} in {data.resolve().name}"
    return ijb_evaluation(images, read_pairs(data, subset, images), read_search(data, subset, images), name)


def ijb_evaluation(images: Images, pairs: Pairs, search: Search, name: str) -> Evaluation:
    """The evaluation set of an IJB folder; rows are templates."""
    count = np.bincount(images.templates, minlength=len(images.template_ids))
    score = np.bincount(images.templates, images.scores, len(count)) / np.maximum(count, 1)
    media = np.unique(np.stack([images.templates.astype(np.int64), images.media]), axis=1)[0]
    subjects = subjects_of_templates(len(count), pairs, search)
    notes = search.notes + contradictions(subjects, pairs, search)
    if images.missing.any():
        notes += (f"{images.missing.sum():,} templates have no image; they count as never matched, which lowers TAR and TPIR but "
                  f"neither FAR nor FPIR",)
    return Evaluation(name, pairs, search, (subjects, subjects), (images.template_ids, images.template_ids), count,
                      {"detector score": score, "number of media": np.bincount(media, minlength=len(count))}, images,
                      data_notes=notes)


def subjects_of_templates(templates: int, pairs: Pairs, search: Search) -> np.ndarray:
    """Subject of each template, int64 [T] from 0.

    The 1:N lists name the subjects of some templates; a genuine pair says that its two templates have the same one.
    """
    lists = [*search.galleries.values(), search.probes]
    names, subject = np.unique(np.concatenate([people.subjects for people in lists]), return_inverse=True)
    start = np.concatenate([pairs.enrol[pairs.same], *(people.templates for people in lists)])        # edges of a graph whose
    end = np.concatenate([pairs.verify[pairs.same], templates + subject])       # nodes are the templates and the named subjects
    nodes = templates + len(names)
    _, component = connected_components(coo_array((np.ones(len(start), bool), (start, end)), (nodes, nodes)), directed=False)
    return np.unique(component[:templates], return_inverse=True)[1]


def contradictions(subjects: np.ndarray, pairs: Pairs, search: Search) -> tuple[str, ...]:
    """What pairs and 1:N lists say against each other, as sentences without a full stop; subjects: of the templates, [T]."""
    lists = [*search.galleries.values(), search.probes]
    named = np.unique(np.concatenate([np.c_[people.subjects, subjects[people.templates]] for people in lists]), axis=0)
    merged = len(named) - len(np.unique(named[:, 1]))
    wrong = int((~pairs.same & (subjects[pairs.enrol] == subjects[pairs.verify])).sum())
    if not merged and not wrong:
        return ()
    return (f"Pairs and 1:N lists contradict each other: by the genuine pairs {merged:,} subjects of the lists are the same as "
            f"another one, and {wrong:,} impostor pairs are of one person; check whether both files belong to these templates",)


def read_plain(data: Path) -> Evaluation:
    """The evaluation set of feature files, from their labels (and ids and pairs)."""
    labels = read_labels(data)
    subjects = labels.gallery, labels.probe
    rows = np.arange(len(subjects[0])), np.arange(len(subjects[1]))
    search = Search({"gallery": People(rows[0], subjects[0])}, People(rows[1], subjects[1]))
    index = np.unique(np.concatenate(subjects), return_inverse=True)[1]
    ids = tuple(own if own is not None else row for own, row in zip(labels.ids, rows, strict=True))
    return Evaluation(data.resolve().name, read_plain_pairs(data / "pairs.npy", subjects), search,
                      (index[:len(rows[0])], index[len(rows[0]):]), (ids[0], ids[1]), np.ones(len(rows[0]), np.int64),
                      row_ids=labels.ids, labels=labels.text, data_notes=labels.notes)
