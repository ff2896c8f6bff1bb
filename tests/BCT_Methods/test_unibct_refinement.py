"""UniBCT's refined prototypes against the equation, class by class; corrupt images; and the published refinement."""

import numpy as np
import torch
from method_loops import class_mean_rows, refined_class, unit_rows
from method_toys import CLASSES, DATA, DIM, IMAGES, Pictures, batches, make_backbone, make_head, old_features, settings

from BCT_Methods.UniBCT.refinement import refine, refined
from BCT_Methods.UniBCT.train import UniBCT
from engine.method import Clock
from records.faces import Filled


def test_refined_prototypes():
    draw = np.random.default_rng(3)
    counts = np.array([3, 1, 7, 3, 2, 12])
    new, old = draw.standard_normal((2, counts.sum(), 16))
    found = refined(torch.from_numpy(new).float(), torch.from_numpy(old).float(), counts, lamb=0.9, tau=0.05,
                    as_published=False)
    ends = counts.cumsum()[:-1]
    slow = [refined_class(*rows, 0.9, 0.05, False) for rows in zip(np.split(new, ends), np.split(old, ends), strict=True)]
    np.testing.assert_allclose(found, slow, atol=1e-5)


def test_the_published_refinement_moves_nothing(one_rank):
    """Columns that sum to one leave the mean where it is, whatever the new features are."""
    features, labels = old_features()
    order = np.argsort(labels, kind="stable")
    new = torch.randn(IMAGES, DIM, generator=torch.Generator().manual_seed(0))
    found = refined(new, torch.from_numpy(features[order]), np.bincount(labels), lamb=0.9, tau=0.5, as_published=True)
    means = np.stack([features[labels == c].mean(0) for c in range(CLASSES)])
    np.testing.assert_allclose(found, means, atol=1e-3)


def test_no_second_term_before_the_first_refinement(old_side, one_rank):
    new, labels, index = batches()[0]
    method = UniBCT(settings("UniBCT", old_side), DATA)
    assert method(make_head(), new, labels, index, Clock(9, 0, 0.2)).keys() == {"cls"}
    assert method(make_head(), new, labels, index, Clock(10, 0, 0.2)).keys() == {"cls", "bct"}


def refined_with_lambda_0(dataset: Pictures) -> torch.Tensor:
    """Prototypes [CLASSES, DIM] from batches that do not divide the classes' images."""
    prototypes = torch.zeros(CLASSES, DIM)
    refine(prototypes, slice(0, CLASSES), make_backbone(), dataset, old_features()[0], batch_size=13, workers=0, lamb=0.0,
           tau=0.05, as_published=False)
    return prototypes.double()


def test_refinement_with_lambda_0_is_the_class_means(one_rank):
    torch.testing.assert_close(refined_with_lambda_0(Pictures()), class_mean_rows(), rtol=0, atol=1e-5)


class CorruptPictures(Pictures):
    """Images 5 and 40 cannot be read: the next ones, here of other classes, are in their places."""

    def take(self, images, rows):
        index = np.array([row + (row in (5, 40)) for row in rows], np.int64)
        return Filled(self.fill(images, index), index, {})


def test_refinement_leaves_out_images_that_were_replaced(one_rank):
    features, labels = old_features()
    assert labels[5] != labels[6] and labels[40] != labels[41]
    intact = np.delete(np.arange(IMAGES), [5, 40])
    means = [torch.from_numpy(features[intact][labels[intact] == c]).double().mean(0) for c in range(CLASSES)]
    torch.testing.assert_close(refined_with_lambda_0(CorruptPictures()), unit_rows(torch.stack(means)), rtol=0, atol=1e-5)
