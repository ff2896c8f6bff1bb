"""What the loader gives to the device, through pinned memory, against images read one by one and mirrored by numpy."""

import numpy as np
import torch
from places import ON_EACH_DEVICE
from toy import write_records

from records.faces import FaceRecords
from records.images import to_input
from records.loader import train_loader

ULP = 2.0 ** -23        # a GPU multiplies by 1 / 127.5, a CPU divides by 127.5


@ON_EACH_DEVICE
def test_batches_on_the_device(device, tmp_path):
    """Three epochs; the device is busy while the loader fills its slots again, and each batch is compared at the end."""
    write_records(tmp_path / "train", [10, 12, 9, 11])
    faces = FaceRecords(tmp_path)
    one = np.empty((1, 16, 16, 3), np.uint8)
    images = []
    for i in range(len(faces)):
        faces.fill(one, [i])
        images.append(one[0].copy())
    loader = train_loader(faces, 5, 0, 1, seed=3, workers=2)
    work, seen = torch.ones(2000, 2000, device=device), []
    for epoch in range(3):
        loader.set_epoch(epoch)
        for step, (batch, labels, index) in enumerate(loader):
            assert batch.is_pinned() == (device == "cuda")
            for _ in range(20 if device == "cuda" else 0):
                work @ work
            flip = (index + step) % 2 == 0
            seen.append((to_input(batch, device, flip), labels.to(device, non_blocking=True), index, flip))
    assert len(seen) == 3 * 8
    for found, labels, index, flip in seen:
        assert found.device.type == device and found.is_contiguous(memory_format=torch.channels_last)
        for x, label, i, mirror in zip(found.cpu().numpy(), labels.tolist(), index.tolist(), flip.tolist(), strict=True):
            pixels = images[i][:, ::-1] if mirror else images[i]
            expected = (pixels.transpose(2, 0, 1).astype(np.float64) - 127.5) / 127.5
            assert np.abs(x - expected).max() <= ULP and label == faces.label(i)
