"""Each method's train.py trains its own method with the margin head, and nothing when it is only read."""

import runpy

import pytest
from method_toys import METHODS, ROOT

from engine import loop


@pytest.mark.parametrize("name", METHODS)
def test_a_script_trains_its_own_method(name, monkeypatch):
    called = []
    monkeypatch.setattr(loop, "main", lambda *args, **named: called.append((args, named)))
    script = str(ROOT / f"BCT_Methods/{name}/train.py")
    method = runpy.run_path(script, run_name="__main__")["METHOD"]
    assert method.__name__ == name and called == [((method,), {})]
    assert "HEAD" not in runpy.run_path(script, run_name="train") and len(called) == 1
