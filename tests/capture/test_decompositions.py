"""Our way to decompose an exported program gives what torch's own, longer way gives."""

import pytest
import torch
from zoo import ZOO

from fxlrp._torch import decompose
from fxlrp.capture.decompositions import make_decompositions


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
