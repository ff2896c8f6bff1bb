"""Several old models: the loss is the mean of the losses with each; settings, heads and views of all of them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from method_steps import clock_of, slice_of_this_rank
from method_toys import DATA, DIM, METHODS, SD, START, batches, make_head, make_method, settings, write_old_side
from ranks import on_ranks

from engine.parts import view_dims
from engine.settings import check_settings, files_of
from engine.several_old import SharedHead, new_method
from losses.view import views_of
from old_model.sides import old_sides
from utils.config import load_config
from utils.errors import UserError

OTHER = "OPclass/f128_other_class70"
KEYS = {"old_feature": "feature", "credible": "credible_ratio_90_feature", "prototypes": "avg_feature"}


@pytest.fixture(scope="module")
def two_olds(tmp_path_factory) -> Path:
    """The toy old side, and a second one of 4 dimensions with other features and marks."""
    folder = write_old_side(tmp_path_factory.mktemp("two"))
    draw = np.random.default_rng(3)
    for kind in ("label", *KEYS.values()):
        array = np.load(folder / f"OPclass/{SD}_{kind}.npy")
        if array.ndim == 2:
            array = array[:, :4] + draw.standard_normal((len(array), 4)).astype(np.float32)
        np.save(folder / f"{OTHER}_{kind}.npy", array[::-1] if kind.startswith("credible") else array)
    return folder


def lists(dims: list | None) -> dict:
    both = {key: [f"OPclass/{SD}_{kind}.npy", f"{OTHER}_{kind}.npy"] for key, kind in KEYS.items()}
    return both | ({"old_dim": dims} if dims else {})


def make_several(name: str, folder: Path):
    """(method against both, the two methods alone), embeddings of 6 dimensions: the first compared as they are, then cut to 4."""
    cfg = settings(name, folder, **lists([DIM, 4]), **START.get(name, {}))
    made = [new_method(sides, METHODS[name], DATA) for sides in (old_sides(cfg), *([side] for side in old_sides(cfg)))]
    if name == "MixBCT":
        for one in (*made[0].members, *made[1:]):
            one.replaced = lambda index, clock: (index % 3 == 0).nonzero()[:, 0]
    return made[0], made[1:]


def head_of() -> torch.nn.Module:
    head = make_head()
    head.views = {4: make_head(8, dim=4)}
    return head


@pytest.mark.parametrize("name", [name for name in METHODS if name != "UniBCT"])
def test_the_loss_is_the_mean_over_the_old_models(name, two_olds, one_rank):
    """Each term, and the gradient of the embeddings and of every class vector."""
    torch.manual_seed(0)
    several, alone = make_several(name, two_olds)
    for member, one in zip(several.members, alone, strict=True):
        one.load_state_dict(member.state_dict())
    new, labels, index = batches()[0]
    found, expected = [], []
    for methods, out in (([several], found), (alone, expected)):
        head, new = head_of(), new.detach().requires_grad_()
        totals: dict[str, torch.Tensor] = {}
        for method in methods:
            for key, value in method(head, new, labels, index, clock_of(0)).items():
                totals[key] = totals.get(key, 0) + value / len(methods)
        sum(totals.values()).backward()
        out += [totals, new.grad, head.weight.grad, head.views[4].weight.grad]
    assert found[0].keys() == expected[0].keys() and ("view" in found[0]) == (name in ("MixBCT", "NCCL"))
    for key, value in expected[0].items():
        torch.testing.assert_close(found[0][key], value)
    for mine, slow in zip(found[1:], expected[1:], strict=True):
        assert (mine is None) == (slow is None)
        if slow is not None:
            torch.testing.assert_close(mine, slow, rtol=1e-4, atol=1e-6)


def test_one_entry_is_the_plain_method(two_olds, one_rank):
    cfg = settings("L2", two_olds, old_feature=[f"OPclass/{SD}_feature.npy"])
    method = new_method(old_sides(cfg), METHODS["L2"], DATA)
    new, labels, index = batches()[0]
    plain = make_method("L2", two_olds)[0]
    assert type(method) is METHODS["L2"]
    assert torch.equal(method(make_head(), new, labels, index, clock_of(0))["l2"],
                       plain(make_head(), new, labels, index, clock_of(0))["l2"])


def test_unibct_refines_the_prototypes_of_each(two_olds, one_rank, monkeypatch):
    cfg = settings("UniBCT", two_olds, **lists([DIM, 4]), refine_epoch=[3])
    method, calls = new_method(old_sides(cfg), METHODS["UniBCT"], DATA), []
    for member in method.members:
        monkeypatch.setattr(member, "start_epoch", lambda *arguments, member=member: calls.append((member, arguments)))
    method.start_epoch(3, "backbone", "images")
    assert calls == [(member, (3, "backbone", "images")) for member in method.members]


def test_the_head_computes_a_batch_once():
    calls = []
    head = SharedHead(lambda new, labels: calls.append(new) or torch.tensor(len(calls)))
    one, two = torch.zeros(2), torch.zeros(2)
    assert [int(head(rows, None)) for rows in (one, one, two, two)] == [1, 1, 2, 2]


def test_old_models_of_one_dimension_share_a_view(two_olds, one_rank):
    """Of 3 new dimensions and two old models of 4: one W, one file."""
    shutil.copy(two_olds / f"{OTHER}_feature.npy", two_olds / "OPclass/third_feature.npy")
    cfg = settings("L2", two_olds, old_feature=[f"{OTHER}_feature.npy", "OPclass/third_feature.npy"], old_dim=4, embedding_size=3)
    method = new_method(old_sides(cfg), METHODS["L2"], DATA)
    assert method.members[0].view is method.members[1].view and list(views_of(method)) == [4]
    assert len(list(method.parameters())) == 1


def test_the_settings_of_each(two_olds, one_rank):
    cfg = settings("MixBCT", two_olds, **lists([DIM, 4]), old_classifier=None)
    first, second = old_sides(cfg)
    assert (first.old_feature, first.old_dim) == (f"OPclass/{SD}_feature.npy", DIM)
    assert (second.credible, second.old_dim, second.old_model) == (f"{OTHER}_credible_ratio_90_feature.npy", 4, None)
    assert view_dims(cfg, METHODS["MixBCT"]) == [4] and view_dims(cfg, METHODS["L2"]) == []
    assert old_sides(settings("L2", two_olds)) == [settings("L2", two_olds)]
    names = {name: path.name for name, path in files_of(cfg).items() if "old model" in name}
    assert len(names) == 8 and names["labels of old model 2"] == "f128_other_class70_label.npy"


@pytest.mark.parametrize("more, words", [
    ({"old_dim": [6]}, "config.old_feature has 2, .*config.old_dim has 1; expected lists of the same length"),
    ({"old_model": "one.pt"}, "config.old_model = one.pt is one name, but there are 2 old models .config.old_feature."),
    ({"old_feature": ["a.npy", "./a.npy"]}, "config.old_feature names one file for two old models")])
def test_lists_that_do_not_fit_are_refused(more, words, tmp_path):
    cfg = settings("MixBCT", tmp_path, **lists(None) | more)
    for look in (old_sides, check_settings):
        with pytest.raises(UserError, match=words):
            look(cfg)


def test_lists_on_the_command_line(tmp_path):
    """A shell removes quotation marks; one name stays a text, whatever it looks like."""
    file = "BCT_Methods/L2/configs/OPclass_ms1mv3_r18_to_r50_L2_softmax_to_arc_f128.py"
    cfg = load_config(file, ["old_feature=[a.npy, b.npy]", "old_dim=[128,256]", "old_model=['work_dirs/a/model.pt','/b.pt']",
                             "credible=a.npy"])
    assert cfg.old_feature == ["a.npy", "b.npy"] and cfg.old_dim == [128, 256] and cfg.credible == "a.npy"
    assert [name.split("/")[-3:] for name in cfg.old_model] == [["work_dirs", "a", "model.pt"], ["", "b.pt"]]
    for wrong in ("old_feature=[]", "old_dim=[0,1]", "old_dim=[a]"):
        with pytest.raises(UserError, match="expected"):
            load_config(file, [wrong])


def test_one_file_of_marks_does_not_serve_two_old_models(two_olds, one_rank):
    cfg = settings("MixBCT", two_olds, **lists([DIM, 4]) | {"credible": f"OPclass/{SD}_credible_ratio_90_feature.npy"})
    with pytest.raises(UserError, match="config.credible is not set: this method needs it .*several old models need a list"):
        new_method(old_sides(cfg), METHODS["MixBCT"], DATA)


def test_mixbct_with_a_sampled_head_is_refused(two_olds, one_rank):
    cfg = settings("MixBCT", two_olds, **lists([DIM, 4]), sample_rate=0.5)
    with pytest.raises(UserError, match="samples the classes of one loss, but MixBCT has one for each of 2 old models"):
        new_method(old_sides(cfg), METHODS["MixBCT"], DATA)


def of_this_rank(folder: Path) -> list:
    out = []
    for name in ("MixBCT", "NCCL", "AdvBCT"):
        torch.manual_seed(1)
        method, head = make_several(name, folder)[0], head_of()
        new, labels, index = batches()[0]
        rows = slice_of_this_rank()
        new = new[rows].clone().requires_grad_()
        terms = method(head, new, labels[rows], index[rows], clock_of(0))
        sum(terms.values()).backward()
        out.append(({key: value.detach() for key, value in terms.items()}, new.grad))
    return out


def test_two_ranks_compute_what_one_computes(two_olds, one_rank):
    ranks = on_ranks(2, of_this_rank, two_olds)
    for k, (terms, grad) in enumerate(of_this_rank(two_olds)):
        for key, value in terms.items():
            torch.testing.assert_close(sum(rank[k][0][key] for rank in ranks) / 2, value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(torch.cat([rank[k][1] for rank in ranks]) / 2, grad, rtol=1e-4, atol=1e-6)
