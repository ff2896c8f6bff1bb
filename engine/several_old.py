"""A method against several old models: v3 against the galleries of v1 and v2."""

from typing import cast

from torch import Tensor, nn

from engine.method import Clock, Method
from losses import PartialFC, View
from records.facts import Facts
from utils.errors import UserError
from utils.settings import Settings


class SharedHead:
    """A head that computes the loss of one batch once, however many old models ask for it."""

    def __init__(self, head: PartialFC):
        self.head = head
        self.asked: tuple[Tensor, Tensor] | None = None         # embeddings, and their loss

    def __call__(self, new: Tensor, labels: Tensor) -> Tensor:
        if self.asked is None or self.asked[0] is not new:
            self.asked = new, self.head(new, labels)
        return self.asked[1]

    def __getattr__(self, name: str):
        return getattr(self.head, name)


class SeveralOld(Method):
    """The mean over K old models of a method's loss: L = 1/K sum_k L_k, L_k the method's equation with the k-th old model.

    L_arc(f_n) is the same in each L_k and so has weight 1. Old models of the same number of dimensions share a view.
    """

    def __init__(self, method_class: type[Method], sides: list[Settings], data: Facts):
        """sides: the settings with each old model.  UserError if the head would sample classes twice in a step."""
        super().__init__(sides[0], data)
        if method_class.view_has_head and sides[0].sample_rate < 1:
            raise UserError(f"config.sample_rate = {sides[0].sample_rate} samples the classes of one loss, but "
                            f"{method_class.__name__} has one for each of {len(sides)} old models; set it to 1")
        self.view_has_head = method_class.view_has_head
        self.members = nn.ModuleList(method_class(side, data) for side in sides)
        views: dict[int, nn.Module] = {}
        for member in self.members:
            if isinstance(view := getattr(member, "view", None), View):
                member.view = views.setdefault(view.dims[1], view)

    def start_epoch(self, epoch: int, backbone: nn.Module, dataset) -> None:
        for member in self.members:
            cast(Method, member).start_epoch(epoch, backbone, dataset)

    def forward(self, head: PartialFC, new: Tensor, labels: Tensor, index: Tensor, clock: Clock) -> dict[str, Tensor]:
        shared = cast(PartialFC, SharedHead(head))
        means: dict[str, Tensor] = {}
        for member in self.members:
            for name, term in member(shared, new, labels, index, clock).items():
                share = term / len(self.members)
                means[name] = means[name] + share if name in means else share
        return means


def new_method(sides: list[Settings], method_class: type[Method], data: Facts) -> Method:
    """The method with one old model or several; sides: of old_sides.  A collective: methods read files together."""
    return method_class(sides[0], data) if len(sides) == 1 else SeveralOld(method_class, sides, data)
