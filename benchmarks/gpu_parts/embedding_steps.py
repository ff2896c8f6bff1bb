"""Embedding of records and of an IJB set: decoding alone, the network alone, and both together."""

from dataclasses import replace
from functools import partial

from benchmarks.embedding_work import KINDS, PARTS, Embedding
from benchmarks.gpu_parts.job import Cases, Job
from benchmarks.inputs import IMAGES
from benchmarks.measure import seconds

BATCH = 128


def cases(job: Job) -> Cases:
    sizes, most = job.sizes, job.sizes.workers[-1]
    for kind, fp16 in (*((kind, True) for kind in reversed(KINDS)), ("IJB", False)):
        task = Embedding(kind, job.folder, sizes.networks[0], sizes.embedded_images, sizes.image, sizes.dim,
                         min(BATCH, sizes.embedded_images), most, fp16)
        for part in PARTS:
            names = {"images": kind, "network": sizes.networks[0], "half precision": fp16, "work": part, "workers": most}
            yield names, partial(measure, job, task, part)


def measure(job: Job, task: Embedding, part: str) -> dict:
    """The time of IJB-C's images is that of these, in proportion; the workers start in the measured time."""
    replace(task, images=task.batch).work("network", job.ranks)()           # chooses the algorithms of the convolutions
    spent = seconds(task.work(part, job.ranks), job.device)
    row = {"images/s": task.images / spent, "s": spent}
    return row | ({"s for IJB-C": spent / task.images * IMAGES} if task.kind == "IJB" else {})
