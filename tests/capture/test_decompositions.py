"""Our way to decompose an exported program gives what torch's own, longer way gives; dropout changes nothing."""

import pytest
import torch
from torch import Tensor, nn
from zoo import ZOO

import fxlrp
from fxlrp._torch import decompose
from fxlrp.capture.decompositions import make_decompositions


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch 2.13 copies what it deprecated itself
@pytest.mark.parametrize("name", ["efficientnet_v2_m", "llama", "vit_b_16"])
def test_programs_are_those_of_torch(name: str) -> None:
    exported = torch.export.export(*ZOO[name](2))
    ours = decompose(exported, make_decompositions())
    theirs = exported.run_decompositions(dict(make_decompositions()))
    assert str(ours.graph) == str(theirs.graph)
    assert ours.graph_signature == theirs.graph_signature
    assert ours.range_constraints == theirs.range_constraints
    assert ours.state_dict.keys() == theirs.state_dict.keys()
    assert ours.constants.keys() == theirs.constants.keys()


class WriteBesideDropout(nn.Module):
    """Writes into what dropout was given, or into what it returned: both are one memory where nothing is dropped."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.drop, self.before = nn.Dropout(), before

    def forward(self, x: Tensor) -> Tensor:
        h = x * 2
        y = self.drop(h)
        (h if self.before else y).mul_(3)
        return h * y


@pytest.mark.parametrize("before", [True, False])
def test_dropout_shares_the_memory_of_its_input(before: bool) -> None:
    x = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    result = fxlrp.compile(WriteBesideDropout(before).eval(), rules="gradient")(x, target=2)
    torch.testing.assert_close(result.output, 36 * x**2)
    torch.testing.assert_close(result.relevance, torch.tensor([[0.0, 0.0, 2 * 324.0]], dtype=torch.float64))
