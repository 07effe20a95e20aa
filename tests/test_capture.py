import torch
from torch import nn

import fxlrp


class Stops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * x.detach()


def test_an_exported_program_stays_as_it_is() -> None:
    torch.manual_seed(0)
    model, x = Stops().double().eval(), torch.randn(2, 3, dtype=torch.float64)
    program = torch.export.export(model, (x,))
    before = str(program.graph)
    attributor = fxlrp.compile(program, rules="gradient")
    result = attributor(x, target=1)
    assert str(program.graph) == before
    assert dict(attributor.program.module.named_parameters())["linear_weight"] is model.linear.weight
    torch.testing.assert_close(result.relevance, x * model.linear.weight[1] * x[:, 1:2], rtol=1e-12, atol=1e-12)
