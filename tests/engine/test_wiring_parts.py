"""The parts that the loop builds and calls: settings, data set, network, heads, loader, verification, speed."""

import re
import shutil
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from recorded import Noted, record, write_data
from torch import nn
from toy import jpeg

from backbones.mobilefacenet import MobileFaceNet
from backbones.vit import VisionTransformer
from engine import distributed, progress
from engine.distributed import Ranks
from engine.loop import flips
from engine.method import Clock, Method
from engine.prepare import build, check_classes, open_dataset
from engine.progress import Progress
from engine.settings import check_settings, settings_of
from engine.verification import Verifier
from losses import ArcFace, PartialFC, SoftmaxHead
from records.faces import FaceRecords, SyntheticFaces
from records.facts import Facts
from records.loader import ShuffledBatches
from records.recordio import RecordWriter, pack
from utils.config import load_config, read_schema
from utils.errors import UserError
from utils.locks import hold_folder
from utils.paths import ROOT
from utils.settings import Settings

CONFIG = ROOT / "configs/f512_r18_arc_class30.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def settings(**more):
    _, values = read_schema(ROOT / "configs")
    return Settings(values | dict(val_targets=[], fp16=False) | more)


class Log(list):
    """The log lines."""

    def info(self, text, *values):
        self.append(text % values)
    warning = info


# settings that are refused before anything is built

LEAST = {"batch_size": 2, "num_epoch": 1, "gradient_acc": 1, "frequent": 1, "verbose": 1, "keep_checkpoints": 1, "workers": 0,
         "seed": 0, "save_every": 0, "warmup_epoch": 0, "timeout": 0.01}


@pytest.mark.parametrize("key, value", [
    *((key, least - 1) for key, least in LEAST.items()), ("batch_size", 2.5), ("num_epoch", True), ("frequent", "often"),
    ("save_every", None), ("warmup_epoch", float("nan")), ("timeout", "long"), ("sample_rate", 0), ("sample_rate", 1.01),
    ("sample_rate", float("nan")), ("val_targets", "lfw"), ("bad_records", "replace"), ("dali", True)])
def test_a_setting_that_means_nothing_is_refused_by_name(key, value):
    with pytest.raises(UserError, match=f"config.{key} "):
        check_settings(load_config(CONFIG, [f"{key}={value}"]))


def test_the_least_values_are_accepted():
    least = [f"{key}={value}" for key, value in LEAST.items()]
    check_settings(load_config(CONFIG, [*least, "sample_rate=1", "bad_records=stop"]))
    check_settings(load_config(CONFIG, [*least, "sample_rate=0.01", "bad_records=skip", "val_targets=('lfw',)"]))
    check_settings(load_config(CONFIG, ["warmup_epoch=0.5", "gradient_acc=4"]))
    with pytest.raises(UserError, match="sample_rate = 0.5 samples classes for one batch, config.gradient_acc = 2"):
        check_settings(settings(sample_rate=0.5, gradient_acc=2))


# what a checkpoint keeps of the settings

def test_a_checkpoint_keeps_the_settings_and_the_contents_of_files():
    """Not the places of its files or the number of workers: these differ from machine to machine."""
    cfg = settings(lr=0.25, workers=9, dataset="/data", output="/out", feature_save="/old")
    found = settings_of(cfg, Facts(49, 7, "abc"), Noted, SoftmaxHead)
    expected = settings().keys() | {"records", "method", "head", "init (contents)"}
    assert found.keys() == expected - {"dataset", "rec", "feature_save", "output", "old_model", "old_classifier", "workers",
                                       "init"}
    assert (found["lr"], found["method"], found["head"]) == ("0.25", "Noted", "SoftmaxHead")
    assert (found["num_image"], found["num_classes"], found["records"]) == ("49", "7", "'abc'")     # of the data, not the config


def test_a_checkpoint_is_of_its_method_head_and_data(data, tmp_path):
    """Another method or head is refused; the same data in another folder is accepted."""
    assert record(data, tmp_path / "run", "num_epoch=1").code == 0
    other = record(data, tmp_path / "run", "num_epoch=2", "resume=True", method=Method)
    assert other.code == 1 and "is of another training (method was Noted, is Method)" in other.log
    other = record(data, tmp_path / "run", "num_epoch=2", "resume=True", head=SoftmaxHead)
    assert other.code == 1 and "is of another training (head was PartialFC, is SoftmaxHead)" in other.log
    shutil.copytree(data, tmp_path / "elsewhere")
    again = record(tmp_path / "elsewhere", tmp_path / "run", "num_epoch=2", "resume=True", "workers=1")
    assert again.code == 0 and again.events[:2] == [("start", 1), ("step", 6)]
    assert "resumed from" in again.log and "config.num_epoch was 1, is 2" in again.log and "dataset was" not in again.log


def test_a_folder_is_refused_before_anything_is_written_to_it(data, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "SECONDS_FOR_LOCK", 0.1)
    with hold_folder(tmp_path, "held", 0):
        run = record(data, tmp_path)
    assert run.code == 1 and run.log.startswith("error: another training, or a process of a killed one, still writes to")
    assert run.networks == [] and {path.name for path in tmp_path.iterdir()} == {"lock"}


def test_the_data_set_reports_its_images_and_classes(data):
    cfg = settings(dataset=str(data), rec="train", image_size=8, num_classes=None, num_image=None, bad_records="skip")
    faces, facts = open_dataset(cfg, log := Log())
    assert (len(faces), faces.image_size, faces.bad_records, log) == (49, 8, "skip", [])
    assert facts == Facts(49, 5, FaceRecords(data / "train").fingerprint())
    assert open_dataset(cfg.replace(num_image=49), log) and log == []
    cfg = settings(rec="synthetic", num_image=None, num_classes=None, image_size=16)
    faces, facts = open_dataset(cfg, log)
    assert isinstance(faces, SyntheticFaces) and (len(faces), faces.num_classes, faces.image_size) == (100_000, 10_000, 16)
    assert facts == Facts(100_000, 10_000, None)
    assert open_dataset(cfg.replace(num_image=32, num_classes=4), log)[1] == Facts(32, 4, None)


def test_a_training_says_which_classes_have_no_image(data, tmp_path):
    """At the start, once, with the numbers and the remedy; one whose header is right says nothing."""
    with RecordWriter(tmp_path / "gaps") as writer:
        for key in range(16):
            writer.write(key, pack(10 * (key % 4), jpeg(key % 4, key, 16), key, 0))
    run = record(data, tmp_path / "run", f"rec={tmp_path / 'gaps'}", "num_epoch=1")
    line, = [line for line in run.log.splitlines() if "no image" in line]
    assert run.code == 0 and f"{tmp_path / 'gaps.rec'}: 4 people, 31 classes declared: 27 classes have no image" in line
    assert f"python tools/make_rec/make_rec.py --from-rec {tmp_path / 'gaps.rec'} --out FOLDER" in line
    assert run.log.index("no image") < run.log.index("16 images, 31 classes")
    assert "no image" not in record(data, tmp_path / "other", "num_epoch=1").log
    faces = FaceRecords(tmp_path / "gaps")
    for rank, lines in ((0, 1), (1, 0)):
        check_classes(faces, Ranks(rank, 2, torch.device("cpu")), log := Log())
        assert len(log) == lines


# network and heads

@pytest.mark.parametrize("network, kind", [("mbf", MobileFaceNet), ("vit_t_dp005_mask0", VisionTransformer)])
def test_the_network_is_that_of_the_settings(network, kind, one_rank):
    cfg = settings(network=network, dropout=0.25, embedding_size=24, image_size=16, fp16=torch.bfloat16)
    made = build(cfg, Facts(49, 7), Ranks(0, 1, torch.device("cpu")), Noted, PartialFC)
    net = made.plain_backbone
    assert type(net) is kind and net.fp16 == torch.bfloat16 and net(torch.zeros(2, 3, 16, 16)).shape == (2, 24)
    assert 0.25 in {module.p for module in net.modules() if isinstance(module, nn.Dropout)}
    assert made.head.weight.shape == (7, 24) and made.plain_method.cfg is cfg and type(made.plain_method) is Noted


def head_of(kind: type, **more):
    return kind(ArcFace(8.0), 16, 40, **more)


@pytest.mark.parametrize("kind", [PartialFC, SoftmaxHead])
def test_a_heads_seed_and_precision(kind, one_rank):
    """Class vectors are a function of the seed; half precision is used and is close to float32."""
    draw = torch.Generator().manual_seed(0)
    new, labels = torch.randn(6, 16, generator=draw), torch.randint(40, (6,), generator=draw)
    assert torch.equal(head_of(kind, seed=3).weight, head_of(kind, seed=3).weight)
    assert not torch.equal(head_of(kind, seed=3).weight, head_of(kind, seed=4).weight)
    exact, half = (head_of(kind, fp16=fp16)(new, labels).item() for fp16 in (False, torch.bfloat16))
    assert exact != half and half == pytest.approx(exact, rel=2e-2)


def test_sampled_classes_depend_on_seed_and_step(one_rank):
    labels = torch.tensor([5, 9])
    found = []
    for seed in (3, 4):
        head = head_of(PartialFC, sample_rate=0.2, seed=seed)
        head.bind(torch.optim.SGD(head.parameters(), 0.1))
        for _ in range(2):
            head.sampler.lend(head.weight, labels)
            found.append(tuple(head.sampler.rows.tolist()))
    assert len(set(found)) == 4 and all(len(rows) == 8 and {5, 9} <= set(rows) for rows in found)


@pytest.mark.parametrize("kind", [PartialFC, SoftmaxHead])
def test_a_loss_is_cut_at_the_smallest_probability(kind, one_rank):
    """A probability below 1e-30 counts as 1e-30: a loss of 69.08 for the row of the wrong class, 0 for the other."""
    head = kind(ArcFace(100.0, 0.0), 2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[100.0, 0.0], [-100.0, 0.0]]))
    loss = head(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([1, 0]))
    assert loss.item() == pytest.approx(30 * 2.302585 / 2, rel=1e-5)


# loader and mirror images

def test_the_rest_of_an_epoch_on_other_ranks_and_batches():
    """One rank has seen 16 of 49 images in batches of eight; three ranks continue in batches of two."""
    whole, ranks = ShuffledBatches(49, 8, 0, 1, 3), [ShuffledBatches(49, 2, rank, 3, 3) for rank in range(3)]
    whole.epoch = 5
    order = [int(i) for rows in whole for i in rows]
    for batches in ranks:
        batches.epoch, batches.seen = 5, 16
    rest = [[rows.tolist() for rows in batches] for batches in ranks]
    assert [len(batches) for batches in rest] == [5, 5, 5]
    assert [i for step in zip(*rest, strict=True) for rows in step for i in rows][:30] == order[16:46]


def test_mirror_marks_of_a_global_batch_do_not_depend_on_the_number_of_ranks():
    cfg = settings(batch_size=200, seed=3)
    one, two = (flips(cfg, Ranks(rank, 2, torch.device("cpu")), 9) for rank in range(2))
    assert torch.equal(torch.cat([one, two]), flips(settings(batch_size=400, seed=3), Ranks(0, 1, torch.device("cpu")), 9))
    assert 80 < int(one.sum()) < 120 and not torch.equal(one, two)


# verification

class Colour(nn.Module):
    """A backbone: features by colour, or one feature for all if ``knows`` is False.  batches: their sizes so far."""

    def __init__(self):
        super().__init__()
        self.knows, self.batches = True, []

    def forward(self, x):
        assert not self.training
        self.batches.append(len(x))
        mean = x.mean((2, 3))
        return F.normalize(mean - mean.mean(1, keepdim=True)) if self.knows else torch.ones_like(mean)


def test_verification_sets(data, one_rank, tmp_path):
    """Each set that exists is verified, in batches of the run's size; the report names the best accuracy so far."""
    shutil.copy(data / "pairs.bin", tmp_path / "more.bin"), shutil.copy(data / "pairs.bin", tmp_path / "pairs.bin")
    cfg = settings(val_targets=["pairs", "none", "more"], dataset=str(tmp_path), batch_size=6, image_size=16)
    verify, net = Verifier(cfg, one_rank, log := Log()), Colour()
    assert len(log) == 1 and f"no verification set {tmp_path}/none.bin" in log[0]
    found = [verify(net, {})]
    net.knows = False
    found.append(verify(net, {}))
    assert [list(accuracy) for accuracy in found] == [["pairs", "more"]] * 2 and net.training
    assert net.batches == [6, 6, 6, 6, 6, 6, 2, 2] * 4
    good, bad = (accuracy["pairs"].mean for accuracy in found)
    assert good == 1 and bad <= 0.5 and "(best 100.00 %," in found[1]["pairs"].text
    assert found[1]["pairs"].text.startswith(f"pairs accuracy {100 * bad:.2f} +- ")


# time

def test_images_per_second_without_pauses(one_rank, tmp_path, monkeypatch):
    """Six steps of two seconds and four images; log lines after 1, 3 and 6; a pause of 100 seconds does not count."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    cfg = SimpleNamespace(output=str(tmp_path), frequent=3, batch_size=4, num_epoch=1, fp16=False)
    shown = Progress(cfg, one_rank, log := Log(), 0, 10)
    for step in range(6):
        now[0] += 2.0
        if step == 4:
            with shown.pause():
                now[0] += 100.0
        clock = Clock(0, step, step / 10)
        if shown.step({"cls": torch.tensor(1.0)}, clock):
            shown.report(shown.mean_terms(), clock, 0.1, skipped=0)
    shown.close()
    assert [re.search(r"  (\d+) images/s  (.*) left", line).groups() for line in log] == [
        ("2", "18 s"), ("2", "14 s"), ("2", "1 min 14 s")]


def test_the_ranks_wait_for_config_timeout(monkeypatch):
    asked = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend, timeout: asked.append(timeout))
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 4)
    ranks = distributed.start_ranks(7)
    assert (ranks.rank, ranks.world_size) == (1, 4) and asked == [timedelta(minutes=7)]


def test_a_rank_without_a_gpu_of_its_own_is_refused(monkeypatch):
    """Before the process group, in which the others would wait; with enough GPUs, float32 is not rounded."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="LOCAL_RANK 2 needs a GPU of its own, and this machine has 2: .*--nproc_per_node=2"):
        distributed.start_ranks()
    assert chosen == [] and torch.backends.cudnn.allow_tf32
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.start_ranks().device == torch.device("cuda", 1) == chosen[0]
    assert not torch.backends.cudnn.allow_tf32
