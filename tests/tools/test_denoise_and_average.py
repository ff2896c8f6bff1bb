"""denoise_credible.py and get_avg_feature.py: what they write, its origin, and mistakes on the command line."""

import hashlib
import json
import subprocess

import numpy as np
import pytest
from processes import run_script
from slow_statistics import random_features, slow_credible

from utils.paths import ROOT


def command(tmp_path, script: str, *args: str) -> subprocess.CompletedProcess:
    return run_script(ROOT / "tools/get_feature" / script, *args, "--feature-save", tmp_path)


def test_command_line(tmp_path):
    rows, labels = random_features()
    folder = tmp_path / "OPclass"
    folder.mkdir()
    np.save(folder / "f5_r18_arc_class70_feature.npy", rows)
    np.save(folder / "f5_r18_arc_class70_label.npy", labels)
    (folder / "f5_r18_arc_class70_feature.json").write_text('{"model": "m", "records": "r"}')
    assert command(tmp_path, "denoise_credible.py", "--T", "0.29", "--SD", "f5_r18_arc_class70").returncode == 0
    mask = np.load(folder / "f5_r18_arc_class70_credible_ratio_29_feature.npy")
    assert mask.tolist() == slow_credible(rows, labels, 0.29, True)
    origin = json.loads((folder / "f5_r18_arc_class70_credible_ratio_29_feature.json").read_text())
    sums = {key: origin.pop(key) for key in ("bytes", "quick", "sha256")}
    assert origin == {"model": "m", "records": "r", "features": None, "T": 0.29, "column_norm": True}
    written = (folder / "f5_r18_arc_class70_credible_ratio_29_feature.npy").read_bytes()
    assert (sums["bytes"], sums["sha256"]) == (len(written), hashlib.sha256(written).hexdigest())
    assert command(tmp_path, "get_avg_feature.py", "--SD", "f5_r18_arc_class70").returncode == 0
    prototypes = np.load(folder / "f5_r18_arc_class70_avg_feature.npy")
    assert prototypes.dtype == np.float32 and np.linalg.norm(prototypes, axis=1) == pytest.approx(np.ones(9))

    before = sorted(folder.iterdir())
    for args, words in ((["--SD", "f5_r18_arc_class70", "--T", "1.5"], "--T must be in (0, 1]"),
                        (["--SD", "f5_r18_arc_other"], "must end in one of class100"),
                        (["--SD", "f6_r18_arc_class70"], "get_feature.py")):
        done = command(tmp_path, "denoise_credible.py", *args)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
    np.save(folder / "f5_r18_arc_class70_label.npy", labels[:-1])
    done = command(tmp_path, "get_avg_feature.py", "--SD", "f5_r18_arc_class70")
    assert done.returncode == 1 and "200 rows" in done.stderr and "199" in done.stderr
    assert sorted(folder.iterdir()) == before
