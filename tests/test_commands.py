"""The commands of README and docs, in their order and directories, with 2 processes, under both launchers, as 2 nodes.

They run in a copy of the project with a toy data set; the tests add only settings that make a command small.
"""

import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_toys import node
from onnx_toys import write as write_onnx
from pages import commands
from small_commands import LAUNCHERS, SMALL, in_one_process, ready, run, shell
from toy import jpeg, write_ijb, write_records
from trainings import free_port

from backbones import get_model

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[1]
# The dry run checks the disk for trainings that this test does not run: the test must not depend on the free space.
ON_A_LARGE_DISK = """
import runpy, shutil, types
shutil.disk_usage = lambda folder: types.SimpleNamespace(free=10 ** 13)
runpy.run_path("tools/reproduce/reproduce.py", run_name="__main__")
"""
FOUR_STEPS = "The document's four steps on 8 GPUs"
METHOD = "OPclass_ms1mv3_r18_to_r50_MixBCT_softmax_to_arc_f128"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clone") / "project"
    leave = shutil.ignore_patterns(".git", ".venv", "dataset", "work_dirs", "feature_save", "demo_output", "__pycache__",
                                   "ijbc_result", "compare_result", "reproduce_output")
    shutil.copytree(ROOT, folder, symlinks=True, ignore=leave)
    write_records(folder / "dataset/ms1m-retinaface-t1/train", [4, 5, 3, 4, 6, 2, 4, 3, 5, 4])
    write_ijb(folder / "dataset")
    return folder


def test_the_readmes_commands_in_their_order(project):
    lines = commands("README.md", FOUR_STEPS)
    assert [Path(re.search(r"(\S+\.py)", line).group(1)).name for line in lines] == [
        "split_dataset_ms1mv3.py", "train_old_softmax.py", "get_feature.py", "denoise_credible.py", "get_avg_feature.py",
        "train.py", "ijbc_eval.py", "ijbc_eval.py", "ijbc_eval.py"]
    tables = []
    for line in lines:
        done = run(ready(line if "MixBCT" in line else in_one_process(line)), project)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        tables += [done.stdout] * ("ijbc_eval" in line)
    assert ["TAR in % at FAR" in table for table in tables] == [True, True, False]
    assert "top-1" in done.stdout
    mask = np.load(project / "feature_save/OPclass/f128_r18_softmax_class70_credible_ratio_90_feature.npy")
    assert mask.shape == (28,) and mask.dtype == bool
    files = sorted(p.name for p in (project / "work_dirs" / METHOD).glob("*.pt"))
    assert files == ["model.pt", "softmax_fc_gpu_0.pt", "softmax_fc_gpu_1.pt"]


def test_the_comparison_and_the_reproduction(project):
    """Paragon, page, and the cost of all methods."""
    dry_run, whole_run, seeds = commands("docs/training.md", "All methods of a scenario")
    for line in commands("docs/upgrade.md", "From model files"):
        small = ready(in_one_process(line)).replace("--old old", "--draws 20 --backfill 2 --old old")
        done = run(small, project)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert "MixBCT" in done.stdout and "paragon+ridge" in done.stdout
    assert (project / "compare_result/index.html").stat().st_size > 100_000
    assert dry_run == f"{whole_run} --dry-run" and seeds == f"{whole_run} --seeds 3"
    for line, count in ((dry_run, 1), (f"{seeds} --dry-run", 3)):
        done = shell(line.replace("bash reproduce.sh", f"python -c '{ON_A_LARGE_DISK}'") + " batch_size=4", project)
        assert done.returncode == 0 and "all inputs are there" in done.stdout, done.stderr
        assert done.stdout.count(" train_old_softmax.py ") == count


def test_a_second_upgrade(project):
    """After the first test, whose old model is v1; v2 has random weights."""
    (project / "work_dirs/v2").mkdir()
    torch.save(get_model("cnn_s", num_features=512, image_size=16).state_dict(), project / "work_dirs/v2/model.pt")
    for line in commands("docs/upgrade.md", "More than one upgrade"):
        done = run(ready(in_one_process(line)).replace("--sequence", "--sequence --draws 20 --backfill 2"), project)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (project / "work_dirs/v3/view_128.npz").is_file() and "view_128.npz" in done.stdout
    assert "drift, queries of each version on the gallery of v1" in (project / "compare_result/compare.txt").read_text()


def test_from_photographs_to_the_comparison(project):
    """The five commands for one's own data, without the last one's trainings (test_the_trainings_of_ones_own_data)."""
    make_rec, split, make_ijb, dry_run, whole_run = commands("README.md", "You have photographs")
    for folder, people, each in (("PHOTOS", 10, 8), ("EVAL_PHOTOS", 16, 3)):
        for person in range(people):
            (project / folder / f"{folder[:2]}{person}").mkdir(parents=True)
            for number in range(each):
                picture = jpeg(person + 100 * (folder == "PHOTOS"), 1000 + number, 112)
                (project / folder / f"{folder[:2]}{person}/{number}.jpg").write_bytes(picture)
    for line in (make_rec, split, make_ijb):
        done = run(line, project)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert dry_run == f"{whole_run} --dry-run"
    done = shell(dry_run.replace("bash reproduce.sh", f"python -c '{ON_A_LARGE_DISK}'") + " batch_size=4", project)
    assert done.returncode == 0 and "all inputs are there" in done.stdout and "warning" not in done.stderr, done.stderr
    assert "--small is short for: --family softmax_to_arc_f128 --methods MixBCT,L2,BCT network=mbf" in done.stdout


def test_an_old_model_that_exists(project):
    """From a file and from vectors with ids; the trainings are in tests/tools/test_existing_old.py."""
    lines = commands("docs/your-own-data.md", "One command for an old model that exists")
    make_rec, make_ijb, dry_run, whole_run, vectors, from_vectors = lines
    write_onnx(project / "old.onnx", [node("Sub", "input m", "a"), node("Div", "a m", "x")], {"m": 127.5})
    for folder, people, each in (("THEIRS", 10, 8), ("EVAL_THEIRS", 16, 3)):
        rows = []
        for person in range(people):
            (project / folder / f"{folder[:2]}{person}").mkdir(parents=True)
            for number in range(each):
                name = f"{folder[:2]}{person}/{number}.jpg"
                (project / folder / name).write_bytes(jpeg(person + 100 * (folder == "THEIRS"), 2000 + number, 112))
                rows.insert(0, f"{name},{person}.5,{number}.25,0.5")
        (project / ("vectors.csv" if folder == "THEIRS" else "eval_vectors.csv")).write_text("\n".join(rows) + "\n")
    for line in (make_rec, make_ijb, vectors):
        line = re.sub(r" (EVAL_)?PHOTOS", r" \1THEIRS", line)
        done = run(line, project)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert dry_run == f"{whole_run} --dry-run"
    for line in (dry_run, from_vectors):
        done = shell(line.replace("bash reproduce.sh", f"python -c '{ON_A_LARGE_DISK}'") + " batch_size=4", project)
        assert done.returncode == 0 and "all inputs are there" in done.stdout, f"{line}\n{done.stderr}"
    assert "80 of 80 images have a vector" in done.stdout and "embedding_size=3" in done.stdout

    accuracy, = commands("docs/evaluation.md", "Accuracy on a .bin file")
    pairs = [jpeg(i // 2, i, 16) for i in range(24)], [i % 2 == 0 for i in range(12)]
    (project / "dataset/ms1m-retinaface-t1/lfw.bin").write_bytes(pickle.dumps(pairs))
    done = run(ready(accuracy.replace("new=work_dirs/NEW/model.pt:r50 ", "")), project)
    (project / "dataset/ms1m-retinaface-t1/lfw.bin").unlink()
    assert done.returncode == 0 and re.search(r"old +\|", done.stdout), done.stderr


def test_an_old_model_of_another_project(project):
    """After the test before it: features by an ONNX file, the same from a .csv with ids, a training on them, the page."""
    model, vectors, *upgrade = commands("docs/your-own-data.md", "You already have an old model")
    export = ("python tools/export_onnx/export_onnx.py -net cnn_s -o old.onnx "
              "-m work_dirs/f128_r18_softmax_class30/model.pt")
    for line in (export, model):
        done = run(line, project)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    file = project / "feature_save/EXclass/f512_theirs_class100_feature.npy"
    features = np.load(file)
    paths = [line.split("\t")[3] for line in (project / "dataset/mine/images.txt").read_text().splitlines()[1:]]
    assert features.shape == (len(paths), 128)
    backwards = [",".join([path, *map(str, row)]) for path, row in zip(paths, features, strict=True)][::-1]
    (project / "vectors.csv").write_text("\n".join([",".join(["id", *map(str, range(128))]), *backwards]))
    done = run(f"{vectors} --force", project)
    assert done.returncode == 0 and np.array_equal(np.load(file), features), done.stderr
    *features_tools, train, page = upgrade
    for line in (*features_tools, ready(train).replace("embedding_size=512", "embedding_size=128"), ready(f"{page} --draws 20")):
        done = run(line, project)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert (project / "work_dirs/mine/model.pt").is_file() and "MixBCT" in done.stdout


@pytest.mark.slow
def test_the_trainings_of_ones_own_data(project):
    """The last of the five commands, with one method and one epoch of 16 pixels; after the test before it."""
    whole_run = commands("README.md", "You have photographs")[-1]
    tiny = "--methods L2 --out own batch_size=4 image_size=16 num_epoch=1 warmup_epoch=0 workers=0"
    done = shell(f"{whole_run} {tiny}".replace("bash reproduce.sh", f"python -c '{ON_A_LARGE_DISK}'"), project)
    assert done.returncode == 0 and (project / "own/compare/index.html").is_file(), done.stderr


@pytest.mark.parametrize("heading", ["What each step reads and writes", "Features of the old model", "Settings",
                                     "Resume after an interruption", "Use the model elsewhere"])
def test_the_commands_of_the_page_on_training(project, heading):
    """After the first test, on its old model and features; a run that trains has a folder of its own."""
    for line in commands("docs/training.md", heading):
        done = run(ready(in_one_process(line)) + " output=work_dirs/page" * ("train_old" in line), project)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def test_a_training_starts_from_the_weights_of_another(project):
    """After the test of the comparison, on its paragon; another embedding size than there."""
    line, = commands("docs/training.md", "Start from existing weights")
    done = run(f"{ready(line)} output=work_dirs/started embedding_size=64", project)
    assert done.returncode == 0 and "128 dimensions there, 64 here" in done.stderr, done.stderr


def test_a_training_on_features(project):
    """The files that the page names: 60 images of 12 people, and embeddings of the evaluation set in place of ONNX files."""
    fit, train, page = commands("docs/upgrade.md", "Training on features")
    draw, turn = np.random.default_rng(0), np.random.default_rng(1).standard_normal((16, 128))
    store = project / "feature_save/OPclass"
    store.mkdir(parents=True, exist_ok=True)
    people = np.repeat(np.arange(12), 5)
    new = draw.standard_normal((12, 16))[people] + 0.3 * draw.standard_normal((60, 16))
    images = len((project / "dataset/IJBC/meta/ijbc_face_tid_mid.txt").read_text().splitlines())
    queries = draw.standard_normal((images, 16))
    for name, rows in (("NEW", new), ("OLD", new @ turn)):
        np.save(store / f"{name}_class70_feature.npy", rows.astype(np.float32))
        np.save(store / f"{name}_class70_label.npy", people)
    for name, rows in (("NEW", queries), ("OLD", queries @ turn)):
        np.save(project / f"{name}.npy", rows.astype(np.float32))
    page = page.replace(".onnx", ".npy") + " --draws 20 --backfill 2"
    for line in (fit, f"{train} batch_size=20 num_epoch=1", page):
        done = run(line, project)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert "new+L2-linear" in done.stdout


def test_the_check_before_the_training(project):
    line, = commands("docs/training.md", "Check before you pay for GPUs")
    done = run(f"{line} {SMALL} --ranks 1 output=work_dirs/checked", project)
    assert done.returncode == 0 and "checksum right" in done.stdout, done.stdout


def test_the_page_on_evaluation_has_the_documents_commands():
    assert commands("docs/evaluation.md", "The three kinds of evaluation") == commands("README.md", FOUR_STEPS)[-3:]


def test_vectors_alone_and_maps(project):
    """The folders and files that the page names: 40 entries of 8 people, 100 of 140 probes unknown; 60 images."""
    draw = np.random.default_rng(0)
    people = {"gallery": np.repeat(np.arange(8), 5), "probe": np.repeat(np.arange(-1, 8), [100, *[5] * 8])}
    for folder in ("LABELS", "OLD_FEATURES", "NEW_FEATURES"):
        (project / folder).mkdir()
    for side, labels in people.items():
        np.save(project / f"LABELS/{side}_label.npy", labels)
        for folder in ("OLD_FEATURES", "NEW_FEATURES"):
            rows = np.eye(16)[labels] + 0.2 * draw.standard_normal((len(labels), 16))      # -1: the last axis, near no person
            np.save(project / f"{folder}/{side}.npy", rows.astype(np.float32))
    old = draw.standard_normal((60, 8)).astype(np.float32)
    np.save(project / "OLD.npy", old)
    np.save(project / "NEW.npy", old @ np.linalg.qr(draw.standard_normal((8, 8)))[0].astype(np.float32))
    page, = commands("docs/upgrade.md", "From vectors alone")
    maps, = commands("docs/upgrade.md", "Maps")
    done = run(f"{page} --draws 20", project)
    assert done.returncode == 0 and "TPIR@1e-2 in %" in done.stdout, done.stderr
    done = run(f"{maps} --samples 0", project)
    assert done.returncode == 0 and (project / "adapt_result/Procrustes.npz").is_file(), done.stderr


def test_every_script_starts_from_its_own_directory(project):
    """A fork has the path of a fresh start; tests/test_processes.py checks that no file there hides a module of a package."""
    scripts = sorted(project.glob("BCT_Methods/*/train.py"))
    assert len(scripts) == 6
    for script in scripts:
        done = run(f"python {script.name} --help", script.parent)
        assert done.returncode == 0 and done.stdout.count("usage: train.py") == 1, done.stderr


def test_torchrun_and_one_process(project):
    """The method's command under torchrun and without a launcher, with the old features of the first test."""
    folder = project / "BCT_methods/MixBCT"          # the other spelling
    train = f"train.py configs/{METHOD}.py {SMALL}"
    for start in (f"{LAUNCHERS[1].replace('8', '2')}--master_port={free_port()}", "python"):
        done = shell(f"{start} {train} output={project}/work_dirs/{start.split()[0]}", folder)
        assert done.returncode == 0, done.stderr
        assert re.search(r"step \d+/\d+  loss \d", done.stderr) and "images/s" in done.stderr


def test_two_nodes(project):
    """Two launchers on loopback are two nodes of one process each; both ranks write their class vectors."""
    output = project / "work_dirs/nodes"
    launch = (f"torchrun --nnodes=2 --nproc_per_node=1 --master_addr=127.0.0.1 --master_port={free_port()} "
              f"--node_rank=%d train_old_arc.py configs/f512_r18_arc_class30.py {SMALL} output={output}")
    done = shell(f"{launch % 1} & {launch % 0}; code=$?; wait $! && exit $code", project)
    assert done.returncode == 0, done.stderr
    rows = [torch.load(output / f"softmax_fc_gpu_{rank}.pt", weights_only=True)["weight"] for rank in range(2)]
    assert [len(r) for r in rows] == [2, 1] and rows[0].shape[1] == 512


def test_features_of_another_model_are_refused(project):
    """The old model is trained again, so that the extracted features are those of another model."""
    output = project / "work_dirs/f128_r18_softmax_class30"
    command = f"python train_old_softmax.py configs/f128_r18_softmax_class30.py {SMALL} seed=1"
    refused = run(command, project)
    assert refused.returncode == 1 and "add resume=True to resume from it" in refused.stderr
    shutil.rmtree(output / "checkpoints")
    again = run(command, project)
    assert again.returncode == 0 and (output / "model.pt").is_file()
    done = run(f"python train.py configs/{METHOD}.py {SMALL}", project / "BCT_Methods/MixBCT")
    assert done.returncode == 1 and "different model" in done.stderr and "Traceback" not in done.stderr
