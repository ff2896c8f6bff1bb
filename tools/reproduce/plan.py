"""What a reproduction needs and what it will cost, before it starts."""

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from prettytable import PrettyTable

from BCT_Methods.scenarios import SCENARIOS
from engine.cost import disks, training_bytes
from engine.parts import new_backbone
from engine.settings import check_settings
from evaluation.protocol import read_images, read_pairs, read_search
from old_model.names import part_of
from records.faces import FaceRecords
from records.folders import spelling
from records.parts import refuse_other_parts
from utils.config import load_config
from utils.errors import UserError
from utils.paths import ROOT, locate
from utils.settings import Settings

SHARE_OF_PART = {"30": 0.3, "70": 0.7}      # share of the images that a part has, used until the record file has been split
SEED_FOLDER = "seed_"                       # <out>/seed_2/MixBCT is a training, seed_2_MixBCT its step; seed 1 is <out>/MixBCT
FREE_PER_BYTE_WRITTEN = 1.2                 # room that a disk must have for each byte that will be written


@dataclass(frozen=True)
class Training:
    """One training of a reproduction.  script, config: paths below the repository; settings: KEY=VALUE of its command line."""

    name: str
    script: str
    config: str
    settings: tuple[str, ...]

    def load(self) -> Settings:
        """Its settings.  UserError for unknown keys and wrong values."""
        return load_config(ROOT / self.config, self.settings)


def check_inputs(trainings: list[Training], records: Path, ijb: Path, subset: str) -> list[str]:
    """A sentence for each thing that is missing or wrong; the first one does not end the check."""
    problems: list[str] = []

    def attempt(look) -> None:
        try:
            look()
        except UserError as error:
            problems.append(str(error))

    if (records / subset).is_dir() and (ijb / "train.rec").is_file():
        problems.append(f"--records {records} holds an evaluation set and --ijb {ijb} a training set: exchange the two folders")
    attempt(lambda: FaceRecords(records / "train"))
    attempt(lambda: refuse_other_parts(part for part in parts_of(records) if part.is_file()))
    for training in trainings:
        attempt(partial(check_training, training))
    attempt(lambda: check_protocol(ijb, subset))
    return list(dict.fromkeys(problems))


def check_training(training: Training) -> None:
    """Refuse settings that are wrong, do not work together, or describe a network that cannot be built."""
    cfg = training.load()
    check_settings(cfg)
    new_backbone(cfg, device="meta")


def check_protocol(ijb: Path, subset: str) -> None:
    """Refuse an evaluation set of which a list or an image file is missing or wrong."""
    images = read_images(ijb, subset)
    read_pairs(ijb, subset, images)
    read_search(ijb, subset, images)
    images.file_versions()          # raises UserError for a missing image file


def same_people(records: Path, ijb: Path) -> list[str]:
    """Names in ``ijb`` of people who are in both sets, in any spelling, by the lists that make_rec and make_ijb leave.

    None if a list is missing.
    """
    lists = records / "identities.txt", ijb / "images.txt"
    if not all(file.is_file() for file in lists):
        return []
    train, evaluated = (file.read_text(encoding="utf-8", errors="replace").split("\n") for file in lists)
    known = {spelling(line.split("\t")[1]) for line in train if "\t" in line}
    return sorted({name for line in evaluated[1:] if line.count("\t") >= 4 and spelling(name := line.split("\t")[3]) in known})


def parts_of(records: Path) -> list[Path]:
    """train.rec and its parts, as all scenarios together need them."""
    return [records / f"{name}.rec" for name in sorted({part_of(part)[1] for pair in SCENARIOS.values() for part in pair})]


def parts_exist(records: Path) -> bool:
    """Whether train.rec has been split."""
    return all(part.is_file() for part in parts_of(records))


@cache
def image_count(records: Path, name: str) -> int:
    """Images of a record file; for a part that has not been split off yet, about 30 or 70 % of the whole file's."""
    if (records / f"{name}.rec").is_file():
        return len(FaceRecords(records / name))
    share = next((share for part, share in SHARE_OF_PART.items() if f"_{part}_" in name), 1.0)
    return round(share * len(FaceRecords(records / "train")))


def plan_rows(trainings: list[Training], records: Path, ranks: int) -> list[tuple]:
    """(name, network, images per epoch, epochs, steps, GB on disk) of each training."""
    rows, classes = [], FaceRecords(records / "train").num_classes
    for training in trainings:
        cfg = training.load()
        images = image_count(locate(cfg.rec, str(records)).parent, Path(cfg.rec).name)
        rows.append((training.name, cfg.network, images, cfg.num_epoch, images // (cfg.batch_size * ranks) * cfg.num_epoch,
                     1e-9 * training_bytes(cfg, classes, ranks)[0]))
    return rows


def print_plan(trainings: list[Training], records: Path, ijb: Path, subset: str, out: Path, ranks: int,
               seeds: int = 1, untrained: int = 0) -> list[str]:
    """Print one table: steps, images and disk of trainings, split, features and evaluation.

    seeds: trainings of each model; the rows of the table are for one, its last line is for all.  untrained: models
    that embed the evaluation images and are not trained.

    Returns a sentence for each problem: a disk that is too full, or a training that has no step.
    """
    rows, cfg = plan_rows(trainings, records, ranks), trainings[-1].load()
    evaluated, features, embedding = len(read_images(ijb, subset)), rows[-1][2], len(rows) + untrained
    others = [("features of old model and paragon", features, 2e-9 * features * cfg.embedding_size * 4),
              (f"embeddings of {subset}, both views", evaluated, 2e-9 * evaluated * embedding * cfg.embedding_size * 4)]
    written = {out: seeds * sum(row[-1] for row in rows + others)}
    if not parts_exist(records) and any(Path(training.load().rec).name != "train" for training in trainings):
        written[records] = 2e-9 * (records / "train.rec").stat().st_size
        others.insert(0, ("parts of train.rec, next to it", 2 * image_count(records, "train"), written[records]))
    table = PrettyTable(["", "network", "images", "epochs", "steps", "disk, GB"], align="r")
    table.align[""] = "l"
    for name, network, images, epochs, steps, size in rows:
        table.add_row([name, network, f"{images:,}", epochs, f"{steps:,}", f"{size:.2f}"])
    for name, images, size in others:
        table.add_row([name, "", f"{images:,}", "", "", f"{size:.2f}"], divider=name == others[-1][0])
    trained, embedded = sum(row[2] * row[3] for row in rows), 2 * features + 2 * evaluated * embedding
    steps = sum(row[4] for row in rows)
    table.add_row(["together" + (f", {seeds} seeds" if seeds > 1 else ""), "", f"{seeds * trained:,} trained, "
                   f"{seeds * embedded:,} embedded", "", f"{seeds * steps:,}", f"{sum(written.values()):.2f}"])
    advice = "" if ranks * cfg.batch_size == 1024 else " (the configs' learning rate is for 1024)"
    print(f"{table.get_string()}\n{ranks} x {cfg.batch_size} images a step{advice}")
    folders = [out, *(out / f"{SEED_FOLDER}{number}" for number in range(2, seeds + 1))]
    names = [*(row[0] for row in rows), "feature_save", "compare"]
    written[out] -= size_of([folder / name for folder in folders for name in names])
    return disk_problems(written) + [f"{name} has {images} images, fewer than a step needs; lower {name}:batch_size"
                                     for name, _, images, _, steps, _ in rows if not steps]


def size_of(folders: list[Path]) -> float:
    """GB of the files below ``folders``."""
    return 1e-9 * sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


def disk_problems(written: dict[Path, float]) -> list[str]:
    """A sentence for each disk that has too little room.  written: GB that will be written, by folder."""
    problems = []
    for folder, size, free in disks(written):
        free *= 1e-9
        print(f"{free:.0f} GB free in {folder}")
        if free < FREE_PER_BYTE_WRITTEN * size:
            problems.append(f"{folder} has {free:.2f} GB free, about {size:.2f} GB will be written; free some, or choose another "
                            f"--out")
    return problems
