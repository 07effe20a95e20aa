"""Relevance read, started and masked at a linear op that a batch norm was merged into: at its own output."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import SignatureError

PRESETS = ["attnlrp", "epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_gamma_box"]
Module = Callable[..., nn.Module]


def same(found: Tensor, wanted: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * max(float(wanted.abs().max()), 1e-30))


def norm(channels: int, dim: int) -> nn.Module:
    made = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dim - 1](channels)
    for tensor in (made.running_mean, made.weight, made.bias):
        nn.init.normal_(tensor)  # type: ignore[arg-type]
    nn.init.uniform_(made.running_var, 0.3, 2)  # type: ignore[arg-type]
    return made


class Net(nn.Module):
    """A linear op and a norm, then a nonlinear rest whose module begins with a further norm if there are two."""

    def __init__(self, linear: nn.Module, dim: int, shape: tuple[int, ...], norms: int = 1) -> None:
        super().__init__()
        self.input = torch.randn(2, *shape)
        self.front = nn.Sequential(linear, nn.Tanh()) if isinstance(linear, nn.Conv2d) and linear.groups == 3 else None
        self.conv = nn.Conv2d(6, 6, 1) if self.front else linear
        self.norm = norm(6, dim)
        further = [norm(6, dim)] if norms == 2 else []
        self.rest = nn.Sequential(*further, nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(self.rest(self.norm(self.begun(self.input))).shape[1], 3)
        self.double().eval()
        self.input = self.input.double()

    def begun(self, x: Tensor) -> Tensor:
        return self.conv(self.front(x) if self.front is not None else x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rest(self.norm(self.begun(x))))  # type: ignore[no-any-return]


SHAPES: dict[str, Callable[[], Net]] = {
    "conv1d": lambda: Net(nn.Conv1d(3, 6, 3, dilation=2), 1, (3, 8)),
    "conv2d without bias": lambda: Net(nn.Conv2d(3, 6, 3, padding=1, bias=False), 2, (3, 5, 4)),
    "conv2d behind another": lambda: Net(nn.Conv2d(3, 6, 3, groups=3), 2, (3, 5, 5)),
    "conv2d with padding by name": lambda: Net(nn.Conv2d(3, 6, 3, padding="same"), 2, (3, 4, 4)),
    "conv3d": lambda: Net(nn.Conv3d(3, 6, 2, stride=2), 3, (3, 4, 4, 4)),
    "grouped transposed": lambda: Net(nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2), 2, (4, 3, 3)),
    "linear": lambda: Net(nn.Linear(4, 6), 1, (4,)),
    "two norms": lambda: Net(nn.Conv2d(3, 6, 3), 2, (3, 5, 4), norms=2),
}


def made(name: str) -> Net:
    torch.manual_seed(2)
    return SHAPES[name]()


def pulled(function: Callable[[Tensor], Tensor], x: Tensor, c: Tensor) -> Tensor:
    """The adjoint of a part of the model, by autograd."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(function(x), x, c)[0]


@pytest.mark.parametrize("name", SHAPES)
def test_every_value_around_a_norm_is_its_own(name: str) -> None:
    """With the gradient's rules: what starts, is masked and is read at the op and at its norm is autograd's."""
    model = made(name)
    attributor = fxlrp.compile(model, rules="gradient", read=("conv", "norm", "conv:coefficient"))
    for injected, masked in (((), False), (("norm", "conv"), False), (("conv",), True), ((), True)):
        check(model, attributor, injected, masked)
    assert len(attributor.coverage().merged) == 1 + (name == "two norms")


def check(model: Net, attributor: fxlrp.Attributor, injected: tuple[str, ...], masked: bool) -> None:
    z = model.begun(model.input).detach()
    y = model.norm(z).detach()
    starts = {path: torch.randn_like(z) for path in injected}
    masks = {path: torch.rand_like(z) for path in ("conv", "norm")} if masked else {}
    seed = torch.randn(2, 3, dtype=torch.float64)
    options = {"inject": starts} if starts else {"target": seed}
    result = attributor(model.input, keep=masks, **options)  # type: ignore[arg-type]

    c = starts.get("norm", torch.zeros_like(y)) if starts else pulled(lambda v: model.head(model.rest(v)), y, seed)
    same(result.read["norm"], y * c)
    c = pulled(model.norm, z, c * masks.get("norm", 1.0)) + starts.get("conv", 0.0)
    same(result.read["conv:coefficient"], c)
    same(result.read["conv"], z * c)
    same(result.relevance, model.input * pulled(model.begun, model.input, c * masks.get("conv", 1.0)))
    same(result.output, model(model.input).detach())


@pytest.mark.slow
@pytest.mark.parametrize("rules", PRESETS)
@pytest.mark.parametrize("name", ["conv2d behind another", "two norms"])
def test_the_merged_op_goes_on_from_what_is_read_before_its_norm(name: str, rules: str) -> None:
    """What starts with the coefficient that is read at the op goes on as from the output; masks of both commute."""
    model = made(name)
    z, y = model.begun(model.input).detach(), model.norm(model.begun(model.input)).detach()
    views = "conv", "conv:coefficient", "norm", "norm:coefficient", "norm:input", "rest:input"
    attributor = fxlrp.compile(model, rules=rules, read=views)
    result = attributor(model.input, target=1)
    read = result.read
    scale = (model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()).detach()  # type: ignore[operator]
    same(read["conv:coefficient"], read["norm:coefficient"] * scale.view(1, -1, *[1] * (z.ndim - 2)), 1e-12)
    same(read["conv"], z * read["conv:coefficient"])
    same(read["norm"], y * read["norm:coefficient"])
    assert torch.equal(read["norm:input"], read["conv"])
    assert torch.equal(read["rest:input"], read["norm"])
    again = attributor(model.input, inject={"conv": read["conv:coefficient"]})
    same(again.relevance, result.relevance, 1e-12)
    same(again.read["conv"], read["conv"], 1e-12)
    assert not again.read["norm"].any()
    mask = torch.rand_like(z)
    one, other = (attributor(model.input, target=1, keep={path: mask}) for path in ("conv", "norm"))
    same(one.relevance, other.relevance, 1e-12)
    assert torch.equal(one.read["conv"], read["conv"])
    same(other.read["conv"], read["conv"] * mask, 1e-12)


def test_several_targets_read_before_a_norm() -> None:
    model = made("conv2d without bias")
    attributor = fxlrp.compile(model, rules="epsilon_plus", read=("conv", "norm"))
    mask = torch.rand(2, 6, 1, 1)
    many = attributor(model.input, targets=[0, 2], keep={"conv": mask})
    for i, target in enumerate((0, 2)):
        one = attributor(model.input, target=target, keep={"conv": mask})
        same(many.relevance[i], one.relevance)
        same(many.read["conv"][i], one.read["conv"])


def test_nothing_starts_in_a_channel_that_the_norm_multiplies_by_zero() -> None:
    """Weights are looked at as they are at the call."""
    model = made("conv2d without bias")
    attributor = fxlrp.compile(model, rules="gradient", read=("conv", "conv:coefficient"))
    c = torch.ones(2, 6, 1, 1, dtype=torch.float64)
    attributor(model.input, inject={"conv": c})
    with torch.no_grad():
        model.norm.weight[[1, 4]] = 0.0  # type: ignore[operator, index]
    with pytest.raises(SignatureError, match=r"inject='conv': .* in channels 1, 4, which the norm norm behind it"):
        attributor(model.input, inject={"conv": c})
    c[:, [1, 4]] = 0.0
    found = attributor(model.input, inject={"conv": c})
    wanted = pulled(model.begun, model.input, c.expand(model.begun(model.input).shape))
    same(found.relevance, model.input * wanted)
    read = attributor(model.input, target=1).read
    assert not read["conv:coefficient"][:, [1, 4]].any()
    assert float(read["conv"][:, [1, 4]].abs().max()) < 1e-12 * float(read["conv"].abs().max())


def test_a_norm_that_was_merged_into_the_op_behind_it_is_told_of() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3), nn.Flatten()).double().eval()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    told = r"The norm 0 was merged into conv2d\w* behind it, which takes its input"
    with pytest.raises(SignatureError, match=f"read='0' fits no module.*{told}"):
        fxlrp.compile(model, read="0")(x, target=0)
    with pytest.raises(SignatureError, match=f"inject='0' is no module output.*{told}"):
        fxlrp.compile(model)(x, inject={"0": 1.0})
    with pytest.raises(SignatureError, match=r"read='1:input': the norm 0 was merged into conv2d"):
        fxlrp.compile(model, read="1:input")(x, target=0)
    result = fxlrp.compile(model, rules="epsilon_plus", read="0:input")(x, target=0)
    assert torch.equal(result.read["0:input"], result.relevance)
