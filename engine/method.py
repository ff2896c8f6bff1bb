"""What a method is: a module that turns new embeddings and labels into named loss terms."""

from dataclasses import dataclass

from torch import Tensor, nn

from losses import PartialFC
from records.facts import Facts
from utils.settings import Settings


@dataclass(frozen=True)
class Clock:
    """How far training is.  epoch: 0-based; step: batches before this one, of all epochs; progress: in [0, 1)."""

    epoch: int
    step: int
    progress: float


class Method(nn.Module):
    """Plain training, and the base of every method; it owns an equation, never optimiser, backbone or head.

    The old models are trained with it.  Checkpoints hold its buffers and parameters.  A module whose buffers hold only this
    rank's classes has an attribute ``sharded``, {name: dimension of the classes}: ``sharded = {"prototypes": 0}``.
    """

    view_has_head = False       # True: its compatible view of another dimension has a head of its own, head.views[d_o]

    def __init__(self, cfg: Settings, data: Facts):
        """cfg: the settings of the run.  data: images and classes of the training set."""
        super().__init__()
        self.cfg = cfg

    def start_epoch(self, epoch: int, backbone: nn.Module, dataset) -> None:
        """Called on all ranks before each epoch (0-based) with the new backbone, not wrapped, and the training images.

        Does nothing here.  A method may leave the backbone in eval mode.  What it computes belongs in buffers: a run that
        resumes inside an epoch restores them from its checkpoint and does not call this again.
        """

    def forward(self, head: PartialFC, new: Tensor, labels: Tensor, index: Tensor, clock: Clock) -> dict[str, Tensor]:
        """Weighted terms by name; the loop adds them up, logs them and follows the gradient of the sum.

        head: callable (embeddings, labels) -> loss.  It is an argument because DDP would overwrite the class shards of a
        submodule.  new float32 [B, d]: this rank's embeddings.  labels int64 [B] on the device.  index int64 [B] on the CPU:
        the image of the record file that each row belongs to.
        """
        return {"cls": head(new, labels)}
