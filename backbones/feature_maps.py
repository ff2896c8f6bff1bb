"""Networks whose input is not an image but a stored feature of another, finished model.

    linear    g(u) = u W + b
    mlp       g(u) = u W + b + gelu(u W1 + b1) W2,  256 hidden units

u: the feature at norm 1.  The formulas are those of evaluation/map_forms.py, so a trained network is a map, too.  W starts at
normal numbers of standard deviation d_out^-1/2, with which g(u) has a norm of about 1; b and W2 start at 0.  W1 starts at
normal numbers of standard deviation 0.1, because gelu is almost straight where torch's default puts rows of norm 1.
"""

from torch import Tensor, nn

from utils.errors import UserError

FEATURE_NETWORKS = {"linear": 0, "mlp": 256}        # name -> hidden units
SPREAD = 0.1                                        # standard deviation of W1 at the start


class FeatureMap(nn.Module):
    """Unit rows float32 [B, d_in] -> embeddings float32 [B, num_features], in float32 on every device: it costs little."""

    def __init__(self, d_in: int, num_features: int, hidden: int):
        """hidden: number of hidden units; 0: linear."""
        super().__init__()
        self.d_in, self.num_features, self.width = d_in, num_features, hidden
        self.linear = nn.Linear(d_in, num_features)
        nn.init.normal_(self.linear.weight, std=num_features ** -0.5)
        nn.init.zeros_(self.linear.bias)
        if hidden:
            self.inner, self.outer = nn.Linear(d_in, hidden), nn.Linear(hidden, num_features, bias=False)
            nn.init.normal_(self.inner.weight, std=SPREAD)
            nn.init.zeros_(self.outer.weight)

    def forward(self, rows: Tensor) -> Tensor:
        """UserError for rows of another dimension."""
        if rows.shape[1:] != (self.d_in,):
            raise UserError(f"this network needs features [B, {self.d_in}], found {list(rows.shape)}; give it features of the "
                            f"model that it was trained on")
        out = self.linear(rows)
        return out + self.outer(nn.functional.gelu(self.inner(rows))) if self.width else out


def is_feature_network(name: str) -> bool:
    return name in FEATURE_NETWORKS


def new_feature_map(name: str, d_in: int, num_features: int) -> FeatureMap:
    """A new network of FEATURE_NETWORKS."""
    return FeatureMap(d_in, num_features, FEATURE_NETWORKS[name])


def holds_feature_map(state: dict[str, Tensor]) -> bool:
    """Whether ``state`` is a state dict of such a network."""
    names = [{"linear.weight", "linear.bias"}, {"linear.weight", "linear.bias", "inner.weight", "inner.bias", "outer.weight"}]
    return state.keys() in names


def advice(what: str) -> str:
    """A sentence for whoever gives a network of features images."""
    return (f"{what} is a map of stored features and cannot read images; its training writes map.npz next to model.pt: judge "
            f"that with tools/compare/compare.py --fitted NAME=map.npz, or export it with tools/adapt/adapt.py --export map.npz")
