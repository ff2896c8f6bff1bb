"""One evaluation at IJB-C's size on random embeddings, and a search in a large gallery."""

from functools import partial

import numpy as np
import torch

from benchmarks.gpu_parts.job import Cases, Job
from benchmarks.inputs import random_protocol, random_rows
from benchmarks.measure import seconds
from benchmarks.scoring import evaluation_seconds, products_alone
from evaluation.identification import search
from evaluation.protocol import People

ROWS_PER_SUBJECT = 50
SEARCH_DIM = 128


def cases(job: Job) -> Cases:
    yield {"what": f"evaluation, {job.sizes.evaluation_share:g} of IJB-C, d = {job.sizes.dim}"}, partial(evaluation, job)
    rows, probes = job.sizes.gallery
    yield {"what": f"search, {probes:,} probes in {rows:,} rows, d = {SEARCH_DIM}"}, partial(search_seconds, job)


def evaluation(job: Job) -> list[dict]:
    draw = np.random.default_rng(0)
    images, pairs, protocol = random_protocol(draw, job.sizes.evaluation_share)
    embeddings = random_rows(job.folder / "embeddings.npy", draw, 2, len(images), job.sizes.dim)
    torch.ones(2, 2, device=job.device) @ torch.ones(2, 2, device=job.device)       # loads libraries and kernels
    spent, _ = evaluation_seconds(embeddings, images, pairs, protocol, job.device)
    return [{"part": name, "s": value} for name, value in (*spent.items(), ("together", sum(spent.values())))]


def search_seconds(job: Job) -> list[dict]:
    rows, count = job.sizes.gallery
    draw = np.random.default_rng(0)
    gallery = random_rows(job.folder / "gallery.npy", draw, rows, SEARCH_DIM)
    query = random_rows(job.folder / "probes.npy", draw, count, SEARCH_DIM)
    subjects = draw.permutation(rows) // ROWS_PER_SUBJECT
    people, probes = People(np.arange(rows), subjects), People(np.arange(count), draw.integers(0, 2 * subjects.max(), count))
    queries = torch.from_numpy(np.array(query)).to(job.device)
    queries[:1] @ queries[:1].T                             # as above
    products = seconds(partial(products_alone, gallery, queries), job.device)
    whole = seconds(partial(search, gallery, query, people, probes, job.device), job.device)
    return [{"part": "matrix products alone", "s": products}, {"part": "search", "s": whole, "ratio": whole / products}]
