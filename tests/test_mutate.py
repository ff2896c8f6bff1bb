"""The list of one-line faults fits the code: every line exists, and every changed file is valid Python."""

import shutil

import pytest
from mutate import ROOT, Mutation, read_mutations

MUTATIONS = list(read_mutations([]))


def test_there_are_enough_faults_in_every_area():
    areas = [mutation.area for mutation in MUTATIONS]
    assert len(areas) >= 100 and {area: areas.count(area) >= 20 for area in areas} == dict.fromkeys(areas, True)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.area}:{m.number}")
def test_a_fault_can_be_applied(mutation, tmp_path):
    (tmp_path / mutation.file).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / mutation.file, tmp_path / mutation.file)
    before = (tmp_path / mutation.file).read_text()
    assert mutation.apply(tmp_path) is None
    after = (tmp_path / mutation.file).read_text()
    if mutation.file.endswith(".py"):
        compile(after, mutation.file, "exec")
    changed = [(one, two) for one, two in zip(before.splitlines(), after.splitlines(), strict=True) if one != two]
    assert len(changed) == 1 and changed[0][1].strip() == mutation.after
    for test in mutation.tests.split():
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}" in (ROOT / file).read_text(), test


def test_a_missing_line_is_an_error(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\nif x:\n    x = 2\n    x = 2\n")
    assert "occurs 0 times" in str(Mutation("", 1, "a.py", "x = 3", "x = 4", "").apply(tmp_path))
    assert "occurs 2 times" in str(Mutation("", 1, "a.py", "x = 2", "x = 4", "").apply(tmp_path))
    assert Mutation("", 1, "b.py", "x = 2", "x = 4", "").apply(tmp_path) == "no such file"
    assert Mutation("", 1, "a.py", "x = 2", "x = 4", "", 2).apply(tmp_path) is None
    assert (tmp_path / "a.py").read_text() == "x = 1\nif x:\n    x = 2\n    x = 4\n"
