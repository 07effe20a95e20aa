"""A program is of the model as it is now: whatever has been changed since, the answer is a fresh compile's."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, nn
from torch.nn.utils import parametrize

import fxlrp
from fxlrp.backends.value_watch import MAX_WHOLE, SAMPLES, ValueWatch
from fxlrp.session.freshness import Structure

X = torch.randn(2, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Scaled(nn.Module):
    """Its attributes are part of what it computes, a buffer and a tensor that is none among them."""

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.mode, self.shift = 2.0, "plain", torch.ones(3, dtype=torch.float64)
        self.register_buffer("offset", torch.zeros(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.factor * self.shift + self.offset
        return x.exp() if self.mode == "exp" else x


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    return nn.Sequential(*layers, Scaled()).double().eval()


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def optimise(kind: type[torch.optim.Optimizer], **options: Any) -> Callable[[nn.Sequential], None]:
    def step(model: nn.Sequential) -> None:
        optimizer = kind(model.parameters(), lr=0.1, **options)
        model(X).square().sum().backward()
        optimizer.step()

    return step


def statistics(model: nn.Sequential) -> None:
    model.train()
    model(3 * X + 1)
    model.eval()


def through_numpy(model: nn.Sequential) -> None:
    model[3].weight.detach().numpy()[:] *= -2


def through_data(model: nn.Sequential) -> None:
    model[3].weight.data.mul_(-2)


def new_data(model: nn.Sequential) -> None:
    model[3].weight.data = -2 * model[3].weight.data


def assigned_state(model: nn.Sequential) -> None:
    state = {name: 0.5 + value for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def copied_state(model: nn.Sequential) -> None:
    model.load_state_dict({name: 0.5 + value for name, value in model.state_dict().items()})


def new_parameter(model: nn.Sequential) -> None:
    model[3].weight = nn.Parameter(-2 * model[3].weight.detach())


def no_bias(model: nn.Sequential) -> None:
    model[5].bias = None


def new_buffer(model: nn.Sequential) -> None:
    model[6].offset = torch.ones(3, dtype=torch.float64)


def new_attribute_tensor(model: nn.Sequential) -> None:
    model[6].shift = torch.full((3,), -1.0, dtype=torch.float64)


def new_number(model: nn.Sequential) -> None:
    model[6].factor = -3.0


def new_word(model: nn.Sequential) -> None:
    model[6].mode = "exp"


def new_module(model: nn.Sequential) -> None:
    model[3] = nn.Conv2d(4, 4, 3).double()


def one_more_module(model: nn.Sequential) -> None:
    model.append(Doubled())


def one_less_module(model: nn.Sequential) -> None:
    del model[2]


def hook(model: nn.Sequential) -> None:
    model[3].register_forward_hook(lambda module, args, output: -output)


def hook_before(model: nn.Sequential) -> None:
    model[3].register_forward_pre_hook(lambda module, args: (-args[0],))


def own_forward(model: nn.Sequential) -> None:
    plain = model[3].forward
    model[3].forward = lambda x: -plain(x)


def new_class(model: nn.Sequential) -> None:
    model[2].__class__ = nn.Tanh


def parametrized(model: nn.Sequential) -> None:
    parametrize.register_parametrization(model[3], "weight", Doubled())


CHANGES = [
    optimise(torch.optim.SGD), optimise(torch.optim.SGD, fused=True), optimise(torch.optim.AdamW, fused=True),
    optimise(torch.optim.Adagrad, fused=True), optimise(torch.optim.Adam, foreach=True), statistics, through_numpy,
    through_data, new_data, assigned_state, copied_state, new_parameter, no_bias, new_buffer, new_attribute_tensor,
    new_number, new_word, new_module, one_more_module, one_less_module, hook, hook_before, own_forward, new_class,
    parametrized,
]  # fmt: skip


def name(change: Callable[..., None]) -> str:
    kept = [cell.cell_contents for cell in change.__closure__ or ()]
    return "-".join([change.__name__, *(getattr(x, "__name__", str(x)) for x in kept)])


@pytest.mark.parametrize("rules", leave_to_slow(["epsilon_gamma_box", "gradient"], but={"epsilon_gamma_box"}))
@pytest.mark.parametrize("change", CHANGES, ids=name)
def test_changes_are_seen(change: Callable[[nn.Sequential], None], rules: str) -> None:
    model = network()
    attributor = fxlrp.compile(model, rules=rules, verify="never")
    old = attributor(X, target=1)
    change(model)
    new, fresh = attributor(X, target=1), fxlrp.compile(model, rules=rules, verify="never")(X, target=1)
    torch.testing.assert_close(new.output, model(X).detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(new.relevance, fresh.relevance, rtol=0, atol=0)
    assert not torch.allclose(new.output, old.output)
    again = attributor(X, target=1)
    torch.testing.assert_close(again.relevance, fresh.relevance, rtol=0, atol=0)


def test_other_values_are_no_other_model() -> None:
    """They are computed anew, and nothing is captured a second time; nor is it for an equal attribute."""
    model = network()
    attributor = fxlrp.compile(model, rules="epsilon_gamma_box")
    for change in (optimise(torch.optim.SGD), statistics, through_numpy, copied_state):
        attributor(X, target=1)
        change(model)
    model[6].factor = float("2.0")
    model[6].mode = "".join(["pl", "ain"])
    attributor(X, target=1)
    assert attributor._programs._captures == 1


def test_removed_hooks_are_seen() -> None:
    model = network()
    handle = model[3].register_forward_hook(lambda module, args, output: -output)
    attributor = fxlrp.compile(model)
    attributor(X, target=1)
    handle.remove()
    torch.testing.assert_close(attributor(X, target=1).output, model(X).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("part", ["0", ""])
def test_training_mode_is_refused_later_too(part: str) -> None:
    model = network()
    attributor = fxlrp.compile(model)
    attributor(X, target=1)
    model.get_submodule(part).train() if not part else model.train()
    with pytest.raises(fxlrp.CaptureError, match="training mode"):
        attributor(X, target=1)
    model.eval()
    torch.testing.assert_close(attributor(X, target=1).output, model(X).detach(), rtol=1e-12, atol=1e-12)


def test_another_dtype_is_another_model() -> None:
    model = network()
    attributor = fxlrp.compile(model)
    attributor(X, target=1)
    model.float()
    model[6].shift = model[6].shift.float()
    assert attributor(X.float(), target=1).relevance.dtype is torch.float32
    with pytest.raises(fxlrp.FxlrpError):
        attributor(X, target=1)


class Counting(nn.Module):
    """Writes attributes at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls, self.last = nn.Linear(3, 2), 0, ()

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.last = (x.shape, object())
        return self.layer(x)


def test_what_a_model_writes_at_every_call_is_no_change() -> None:
    model = Counting().eval()
    attributor = fxlrp.compile(model)
    for _ in range(5):
        attributor(torch.ones(1, 3), target=1)
        model(torch.ones(1, 3))
    assert attributor._programs._captures == 2  # the second run tells a habit from what is done once


class Lazy(nn.Module):
    """Makes an attribute when it first runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(3, 2), None

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = 2.0
        return self.layer(x) * self.scale


def test_what_a_model_writes_once_may_change_later() -> None:
    model, x = Lazy().eval(), torch.ones(1, 3)
    attributor = fxlrp.compile(model)
    attributor(x, target=1)
    model.scale = 7.0
    torch.testing.assert_close(attributor(x, target=1).output, model(x).detach())


def test_hooks_on_all_modules_are_seen() -> None:
    model, x = nn.Linear(3, 2).eval(), torch.ones(1, 3)
    attributor = fxlrp.compile(model)
    attributor(x, target=1)
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, output: output * 1.5 if isinstance(output, Tensor) else output
    )
    try:
        torch.testing.assert_close(attributor(x, target=1).output, model(x).detach())
    finally:
        handle.remove()
    torch.testing.assert_close(attributor(x, target=1).output, model(x).detach())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")  # a FutureWarning since torch 2.14
def test_modules_of_torchscript_are_refused() -> None:
    for model in (torch.jit.script(nn.Linear(3, 2).eval()), torch.jit.trace(nn.Linear(3, 2).eval(), torch.ones(1, 3))):
        with pytest.raises(fxlrp.CaptureError, match="TorchScript"):
            fxlrp.compile(model)(torch.ones(1, 3), target=1)


@pytest.mark.slow
def test_programs_that_are_gone_are_watched_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * (torch.tensor([1.0, 2.0]) + 1)

    attributor = fxlrp.compile(Constant().eval(), rules="epsilon_plus")
    monkeypatch.setattr(attributor._programs._signatures, "size", 2)
    for n in range(1, 8):
        attributor(torch.ones(n, 3), target=1)
        gc.collect()
    assert len(attributor._programs._store._watch.tensors) <= 2 + 3  # weight and bias, and a constant of each program


def test_refresh_sees_what_is_hidden() -> None:
    """A list that is changed in place is the same list."""
    model = network()
    model[6].shift = [2.0]
    model[6].forward = lambda x: x * model[6].shift[0]
    attributor = fxlrp.compile(model)
    attributor(X, target=1)
    model[6].shift[0] = -1.0
    attributor.refresh()
    torch.testing.assert_close(attributor(X, target=1).output, model(X).detach(), rtol=1e-12, atol=1e-12)


def test_an_exported_program_may_be_given_other_weights() -> None:
    exported = torch.export.export(network(), (X,))
    attributor = fxlrp.compile(exported)
    attributor(X, target=1)
    with torch.no_grad():
        exported.state_dict["3.weight"].mul_(-2)
    torch.testing.assert_close(attributor(X, target=1).output, exported.module()(X).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64, torch.int64, torch.bool]
)
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (64, 64), (7, 33, 5, 5), (0, 3)])
@pytest.mark.parametrize("layout", ["plain", "transposed", "slice", "expanded", "last"])
def test_a_probe_sees_a_change_of_everything(dtype: torch.dtype, shape: tuple[int, ...], layout: str) -> None:
    base = torch.ones(shape, dtype=dtype)
    layouts: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: base,
        "transposed": lambda: base.T if base.ndim == 2 else base,
        "slice": lambda: torch.ones(*shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2] if shape else base,
        "expanded": lambda: torch.ones(1, dtype=dtype).expand(shape) if shape else base,
        "last": lambda: base.contiguous(memory_format=torch.channels_last) if base.ndim == 4 else base,
    }
    tensor = layouts[layout]()
    watch = ValueWatch([tensor])
    assert not watch.changed()
    version = tensor._version
    written = tensor.data[(slice(1),) * len(shape)] if layout == "expanded" else tensor.data
    written.zero_()
    assert tensor._version == version
    assert watch.changed() == bool(tensor.numel())
    assert not watch.changed()


def test_a_probe_reads_a_bounded_number_of_entries() -> None:
    tensors = [torch.zeros(n, n) for n in (1, 20, 100, 1000)]
    read = sum(len(view.reshape(-1)) for views in ValueWatch(tensors).views for view in views)
    assert read <= 1 + MAX_WHOLE + 2 * 2 * SAMPLES


def test_nan_is_no_change() -> None:
    watch = ValueWatch([torch.full((3,), float("nan"))])
    assert not watch.changed()


def test_a_structure_holds_what_it_compares() -> None:
    """The identity of an object that is gone may be that of the next one."""
    model = network()
    structure = Structure(model)
    for _ in range(50):
        model[3] = nn.Conv2d(4, 4, 3).double().eval()
        assert structure.changed()


@pytest.mark.parametrize("rules", ["attnlrp", "epsilon_gamma_box"])
def test_copies_are_attributors_of_their_own(rules: str) -> None:
    model = network()
    attributor = fxlrp.compile(model, rules=rules, read=("3",))
    known = attributor(X, target=1)
    double = copy.deepcopy(attributor)
    assert double.model is not model
    torch.testing.assert_close(double(X, target=1).relevance, known.relevance, rtol=0, atol=0)
    assert copy.copy(attributor).model is model
    scale(double.model)
    torch.testing.assert_close(attributor(X, target=1).relevance, known.relevance, rtol=0, atol=0)
    assert not torch.allclose(double(X, target=1).relevance, known.relevance)


def scale(model: nn.Module) -> None:
    with torch.no_grad():
        model[3].weight.mul_(-2)


def test_pickles_hold_the_model_and_what_was_asked() -> None:
    attributor = fxlrp.compile(network(), rules="epsilon_plus", read=("3",))
    known = attributor(X, target=1)
    found = pickle.loads(pickle.dumps(attributor))(X, target=1)
    torch.testing.assert_close(found.relevance, known.relevance, rtol=0, atol=0)
    torch.testing.assert_close(found.read["3"], known.read["3"], rtol=0, atol=0)


def test_rules_that_do_not_pickle_say_so() -> None:
    own = fxlrp.Rule("own", "linear", lambda site, c: site.adjoint(c))
    rules = fxlrp.rule_set("attnlrp") | {torch.ops.aten.linear.default: own}
    attributor = fxlrp.compile(network(), rules=rules)
    with pytest.raises(fxlrp.RuleError, match=r"'attnlrp \(changed\)' cannot be pickled"):
        pickle.dumps(attributor)
    assert copy.deepcopy(attributor).rules is rules
