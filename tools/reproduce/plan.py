"""What a reproduction needs and what it will take, before it starts."""

import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from prettytable import PrettyTable

from backbones import get_model
from records.faces import FaceRecords
from tools.ijbc_eval.protocol import read_images, read_pairs, read_search
from utils.config import load_config, locate
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SHARE = {"30": 0.3, "70": 0.7}      # of the images, until the record file has been split


@dataclass(frozen=True)
class Training:
    """One training of a reproduction: script and config below the repository, settings behind them."""

    name: str
    script: str
    config: str
    settings: tuple[str, ...]

    def load(self):
        """Its settings; unknown keys and wrong values are refused."""
        return load_config(ROOT / self.config, self.settings)


def check_inputs(trainings: list[Training], records: Path, ijb: Path, subset: str) -> list[str]:
    """A sentence for everything that is missing or wrong; all of it is looked at, not only the first."""
    problems = []

    def attempt(look) -> None:
        try:
            look()
        except UserError as error:
            problems.append(str(error))

    attempt(lambda: FaceRecords(records / "train"))
    for training in trainings:
        attempt(lambda training=training: check_settings(training.load()))
    attempt(lambda: check_protocol(ijb, subset))
    return list(dict.fromkeys(problems))


def check_settings(cfg) -> None:
    get_model(cfg.network, num_features=cfg.embedding_size, image_size=cfg.image_size)


def check_protocol(ijb: Path, subset: str) -> None:
    images = read_images(ijb, subset)
    read_pairs(ijb, subset, images)
    read_search(ijb, subset, images)
    images.sizes()                  # every image file is there


@cache
def image_count(records: Path, name: str) -> int:
    """Images of a record file; of a part that is not split off yet about 30 or 70 % of the whole."""
    if (records / f"{name}.rec").is_file():
        return len(FaceRecords(records / name))
    share = next((share for part, share in SHARE.items() if f"_{part}_" in name), 1.0)
    return round(share * len(FaceRecords(records / "train")))


def plan_rows(trainings: list[Training], records: Path, ranks: int) -> list[tuple]:
    """(name, network, images per epoch, epochs, steps, GB on disk) of each training."""
    rows = []
    for training in trainings:
        cfg = training.load()
        images = image_count(locate(cfg.rec, records).parent, Path(cfg.rec).name)
        classes = FaceRecords(records / "train").num_classes
        backbone = sum(p.numel() for p in get_model(cfg.network, num_features=cfg.embedding_size,
                                                    image_size=cfg.image_size).parameters())
        floats = 3 * backbone + 3 * classes * cfg.embedding_size        # model.pt; checkpoint: weights and momentum
        rows.append((training.name, cfg.network, images, cfg.num_epoch, images // (cfg.batch_size * ranks) * cfg.num_epoch,
                     4e-9 * floats))
    return rows


def print_plan(trainings: list[Training], records: Path, ijb: Path, subset: str, out: Path, ranks: int) -> list[str]:
    """One table: steps, images and disk of every training, of the features and of the evaluation; what speaks against it."""
    rows = plan_rows(trainings, records, ranks)
    cfg, evaluated = trainings[-1].load(), len(read_images(ijb, subset))
    table = PrettyTable(["", "network", "images", "epochs", "steps", "disk, GB"], align="r")
    table.align[""] = "l"
    for name, network, images, epochs, steps, size in rows:
        table.add_row([name, network, f"{images:,}", epochs, f"{steps:,}", f"{size:.2f}"])
    features = rows[-1][2]
    size_of_features = 2 * features * cfg.embedding_size * 4e-9
    size_of_embeddings = 2 * evaluated * len(rows) * cfg.embedding_size * 4e-9
    table.add_row(["features of old model and paragon", "", f"{features:,}", "", "", f"{size_of_features:.2f}"])
    table.add_row([f"embeddings of {subset}, both views", "", f"{evaluated:,}", "", "", f"{size_of_embeddings:.2f}"],
                  divider=True)
    trained = sum(row[2] * row[3] for row in rows)
    embedded = 2 * features + 2 * evaluated * len(rows)
    disk = sum(row[5] for row in rows) + size_of_features + size_of_embeddings
    table.add_row(["together", "", f"{trained:,} trained, {embedded:,} embedded", "", f"{sum(row[4] for row in rows):,}",
                   f"{disk:.2f}"])
    existing = next(folder for folder in (out, *out.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free * 1e-9
    advice = "" if ranks * cfg.batch_size == 1024 else " (the configs' learning rate is for 1024)"
    print(f"{table.get_string()}\n{ranks} x {cfg.batch_size} images a step{advice}; {free:.0f} GB free in {existing}")
    if free < 1.2 * disk:
        return [f"{existing} has {free:.1f} GB free, about {disk:.1f} GB will be written; choose another --out"]
    return []
