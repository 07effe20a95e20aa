"""Every error says what failed, where, and what to do."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest
import torch
import typer
from torch import Tensor, nn

import fxlrp
import fxlrp.evaluate
import fxlrp.tuning.candidates
import fxlrp.vision
from fxlrp.cli.app import app
from fxlrp.ir.rule import RULES
from fxlrp.ir.user_lines import find_raising_line, parse_stack
from fxlrp.plan.named_places import VIEWS

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)


@torch.library.custom_op("fxlrp_tests::twist", mutates_args=())
def twist(x: Tensor) -> Tensor:
    return x * 2


@twist.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("fxlrp_tests::turn", mutates_args=())
def turn(x: Tensor, by: float) -> Tensor:
    return x * by


@turn.register_fake
def _(x: Tensor, by: float) -> Tensor:
    return torch.empty_like(x)


twist.register_autograd(lambda ctx, g: 2 * g)
turn.register_autograd(
    lambda ctx, g: (g * ctx.by, None), setup_context=lambda ctx, inputs, output: setattr(ctx, "by", inputs[1])
)
TWIST, TURN = torch.ops.fxlrp_tests.twist.default, torch.ops.fxlrp_tests.turn.default


class Unknown(nn.Module):
    """Uses two ops that nobody wrote a rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = twist(self.linear(x))
        x = twist(x.relu()) + turn(x, 3.0)
        return twist(x)


def unknown() -> nn.Module:
    torch.manual_seed(0)
    return Unknown().double().eval()


def line_of(function: Callable[..., Any], text: str) -> str:
    """``tests/file.py:line`` of the first line of a function that holds a text."""
    lines, start = inspect.getsourcelines(function)
    return f"test_errors.py:{start + next(i for i, line in enumerate(lines) if text in line)}"


def test_missing_rules_lists_all_of_them_at_once() -> None:
    with pytest.raises(fxlrp.MissingRules) as caught:
        fxlrp.compile(unknown())(X)
    first, *rows, remedy = str(caught.value).splitlines()
    assert first == "2 ops on the path from the inputs to the output have no rule"
    assert rows[0].split()[:2] == ["fxlrp_tests.twist.default", "x3"]
    assert rows[1].split()[:2] == ["fxlrp_tests.turn.default", "x1"]
    assert line_of(Unknown.forward, "twist(self") in rows[0]
    assert "x = twist(self.linear(x))" in rows[0]
    assert line_of(Unknown.forward, "turn(x") in rows[1]
    assert "@fxlrp.rule(torch.ops.fxlrp_tests.twist.default)" in remedy
    assert "strict=False" in remedy


def test_not_strict_compiles_warns_and_reports() -> None:
    own = unknown()
    with pytest.warns(UserWarning, match=r"(?s)2 ops .* have no rule.*twist.default  x3.*plain adjoint \(Taylor\)"):
        attributor = fxlrp.compile(own, (X,), strict=False)
    report = attributor.coverage()
    missing = {row.op: row.count for row in report.rows if row.rule == "MISSING"}
    assert missing == {"fxlrp_tests.twist.default": 3, "fxlrp_tests.turn.default": 1}
    assert report.rows[0].rule == "MISSING"
    assert report.live - report.covered == 4
    assert "MISSING" in str(report)
    x = X.clone().requires_grad_()
    own(x).amax(1).sum().backward()
    torch.testing.assert_close(attributor(X).relevance, X * x.grad, rtol=1e-10, atol=1e-10)


def test_an_op_off_the_path_needs_no_rule() -> None:
    class Beside(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * twist(torch.ones(4, dtype=torch.float64)) + twist(x.detach())

    torch.testing.assert_close(fxlrp.compile(Beside().eval())(X, target=1).relevance[:, 1], 2 * X[:, 1])


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for op in (TWIST, TURN):
        monkeypatch.delitem(RULES, op, raising=False)
    fxlrp.rule(TWIST, TURN, kind="linear")(lambda site, c: site.adjoint(c))
    yield
    for op in (TWIST, TURN):
        RULES.pop(op)


@pytest.mark.usefixtures("registered")
def test_registered_rule_serves_the_op() -> None:
    attributor = fxlrp.compile(unknown(), (X,))
    assert {row.kind for row in attributor.coverage().rows if "fxlrp_tests" in row.op} == {"linear"}


def test_rules_argument_serves_the_op() -> None:
    rule = fxlrp.Rule("twice", "linear", lambda site, c: (2 * c,))
    turned = fxlrp.Rule("by", "linear", lambda site, c: (c * site.arguments["by"],))
    found = fxlrp.compile(unknown(), rules={TWIST: rule, TURN: turned})(X, target=2).relevance
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = fxlrp.compile(unknown(), strict=False)(X, target=2).relevance
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_rule_with_results_that_do_not_fit() -> None:
    wrong = fxlrp.Rule("wrong", "linear", lambda site, c: (c[:1],))
    with pytest.raises(fxlrp.RuleError) as caught:
        fxlrp.compile(unknown(), rules={TWIST: wrong, TURN: wrong})(X)
    text = str(caught.value)
    assert text.startswith("rule wrong returned shapes [(1, 4)] for operands of shapes [(3, 4)]")
    assert "fxlrp_tests.twist.default (node 'twist_2'" in text
    assert line_of(Unknown.forward, "return twist") in text
    assert "one coefficient per operand" in text


# models that cannot be captured


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x * 3


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class Overwrite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x += 1
        return x * 2


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.ones(7, 2, dtype=torch.float64)


class Numpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.detach().numpy().max()


class Conditional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x * 3, (x,))


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


CAPTURE: dict[str, tuple[Any, tuple[str, ...]]] = {
    "training mode": (nn.Sequential(nn.Linear(4, 2)), ("Sequential is in training mode", "model.eval()")),
    "no module": (lambda x: x, ("a model is an nn.Module or an ExportedProgram, not function",)),
    "a text": ("resnet", ("a model is an nn.Module or an ExportedProgram, not str",)),
    "branch on values": (
        Branch(),
        ("Branch could not be captured", line_of(Branch.forward, "if x"), "if x.sum() > 0:", "Use torch.where"),
    ),
    "changed buffer": (Counter(), ("Counter changes its buffers or inputs", "returns the new state")),
    "changed input": (Overwrite(), ("Overwrite changes its buffers or inputs",)),
    "shapes that do not fit": (
        Broken(),
        ("Broken could not be captured", line_of(Broken.forward, "return x"), "make the model run on these inputs"),
    ),
    "value as a number": (
        Numpy(),
        ("Numpy could not be captured", line_of(Numpy.forward, "return x"), "make the model run on these inputs"),
    ),
    "control flow": (Conditional(), ("control flow", "not supported", line_of(Conditional.forward, "return torch"))),
    "active dropout": (Random(), ("dropout", line_of(Random.forward, "return nn"), "model.eval()")),
}


@pytest.mark.parametrize("name", CAPTURE)
def test_capture_errors(name: str) -> None:
    own, texts = CAPTURE[name]
    if isinstance(own, nn.Module) and name != "training mode":
        own.eval()
    x = X.clone()
    with pytest.raises(fxlrp.CaptureError) as caught:
        fxlrp.compile(own)(x)
    for text in texts:
        assert text in str(caught.value)
    assert torch.equal(x, X)


def test_a_failed_capture_says_so_once() -> None:
    """In a process of its own, where torch logs as it does for users: to standard error."""
    program = """if True:
        import torch, fxlrp, test_errors
        x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
        for name in ("branch on values", "shapes that do not fit", "value as a number"):
            for shapes in (None, "auto"):
                model = torch.nn.Sequential(torch.nn.Linear(4, 4), test_errors.CAPTURE[name][0]).double().eval()
                try:
                    fxlrp.compile(model, dynamic_shapes=shapes)(x)
                except fxlrp.CaptureError as error:
                    print(error)
        """
    folder = Path(__file__).parent
    paths = {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    run = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **paths}, capture_output=True, text=True, check=True
    )
    lines = run.stdout.splitlines()
    assert len(lines) == 6 * 4
    assert {line for line in lines if lines.index(line) % 4 == 0} == {"Sequential could not be captured"}
    assert all("test_errors.py:" in line for line in lines[2::4])
    assert run.stderr == ""


TORCH = Path(torch.__file__).parent
PLACES = {
    "exec": ("<string>", "__main__"),
    "no module": ("<string>", ""),
    "notebook": ("<ipython-input-3-0f1e>", "__main__"),
    "beneath torch": (f"{TORCH}/mine/model.py", "mine.model"),
    "beside torch": (f"{TORCH}_models/model.py", "torch_models.model"),
    "site-packages": (f"{TORCH.parent}/mine/model.py", "mine.model"),
}


def model_at(place: str, line: str) -> nn.Module:
    """A model whose code lies there; ``line`` is the third of its file."""
    file, module = PLACES[place]
    space: dict[str, Any] = {"nn": nn, "torch": torch, "twist": twist, **({"__name__": module} if module else {})}
    exec(compile(f"class Model(nn.Module):\n  def forward(self, x):\n    {line}\n    return x\n", file, "exec"), space)
    return nn.Sequential(space["Model"](), nn.Identity()).eval()


@pytest.mark.parametrize("place", PLACES)
def test_the_line_is_named_wherever_it_lies(place: str) -> None:
    file = PLACES[place][0]
    lines = ("if x.sum() > 0: x = x * 2", "x = nn.Linear(7, 2)(x)", "x = nn.functional.linear(x, torch.ones(2, 7))")
    for line in lines:
        with pytest.raises(fxlrp.CaptureError) as caught:
            fxlrp.compile(model_at(place, line))(X)
        assert f"  at {file}:3" in str(caught.value)
    if file == "<string>":  # torch leaves these out of the stacks that it keeps with nodes
        return
    shown = "/".join(Path(file).parts[-2:])
    with pytest.raises(fxlrp.MissingRules) as missing:
        fxlrp.compile(model_at(place, "x = twist(x)"))(X)
    assert f"{shown}:3" in str(missing.value)
    with pytest.raises(fxlrp.CaptureError) as masked:
        fxlrp.compile(model_at(place, "x = nn.functional.dropout(x, 0.5)"))(X)
    assert f"{shown}:3" in str(masked.value)


def test_a_line_is_found_behind_other_errors() -> None:
    class Wrapped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.double_it

    def failing() -> None:
        try:
            Wrapped()(X)
        except AttributeError as error:
            outer = RuntimeError("outer")
            outer.__cause__ = error
            raise_from_torch(outer)

    def raise_from_torch(error: Exception) -> None:
        torch.nn.Module.apply(nn.Identity(), lambda _: (_ for _ in ()).throw(error))

    with pytest.raises(RuntimeError) as caught:
        failing()
    line = find_raising_line(caught.value)
    assert line is not None
    assert line.code == "return x.double_it"


def test_a_model_of_layers_names_the_layer() -> None:
    with pytest.raises(fxlrp.CaptureError, match=r"at .*torch/nn/modules/linear.py:\d+  return F.linear"):
        fxlrp.compile(nn.Sequential(nn.ReLU(), nn.Linear(7, 2)).double().eval())(X)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ('File "a.py", line 3, in f\n    x = y\n', [("a.py", 3, "x = y")]),
        (
            '  File "<string>", line 3, in f\n  File "b.py", line 4, in g\n    z\n',
            [("<string>", 3, ""), ("b.py", 4, "z")],
        ),
        ('File "<eval_with_key>.3", line 3, in f\n    x = y\nFile "c.py", line 9\n', [("c.py", 9, "")]),
    ],
)
def test_written_stacks(text: str, expected: list[Any]) -> None:
    assert parse_stack(text) == expected


def test_a_failed_capture_leaves_the_buffers_alone() -> None:
    own = Counter().eval()
    with pytest.raises(fxlrp.CaptureError):
        fxlrp.compile(own)(X)
    assert own.calls.item() == 0
    assert type(own.calls) is Tensor


def test_dynamic_shapes_that_do_not_hold() -> None:
    own = nn.Sequential(nn.Flatten(0), nn.Linear(12, 2)).double().eval()
    with pytest.raises(fxlrp.CaptureError, match=r"(?s)Sequential could not be captured.*fix the named dimension"):
        fxlrp.compile(own, dynamic_shapes=({0: torch.export.Dim("batch", max=8)},))(X)


# inputs


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()


class Two(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image * mask


NAN = torch.where(torch.arange(12).reshape(3, 4) == 5, torch.nan, X)
CALLS: dict[str, tuple[nn.Module, tuple[Any, ...], dict[str, Any], tuple[str, ...]]] = {
    "missing": (Two(), (X,), {}, ("Two.forward(image", "missing a required argument: 'mask'")),
    "unknown": (Two(), (X, X), {"scale": 2}, ("Two.forward(image", "unexpected keyword argument 'scale'")),
    "too many": (Two(), (X, X, X), {}, ("Two.forward(image", "too many positional arguments")),
    "twice": (Two(), (X, X), {"mask": X}, ("multiple values for argument 'mask'",)),
    "nothing": (Two(), (), {}, ("missing a required argument: 'image'",)),
    "infinite": (
        Two(),
        (X, torch.full_like(NAN, torch.inf)),
        {},
        ("input 'mask' has 12 +inf of 12 values", "clean it before explaining"),
    ),
    "not a number": (Two(), (X, NAN), {}, ("input 'mask' has 1 NaN of 12 values", "clean it before explaining")),
}


@pytest.mark.parametrize("name", CALLS)
def test_call_errors(name: str) -> None:
    own, args, kwargs, texts = CALLS[name]
    with pytest.raises(fxlrp.SignatureError) as caught:
        fxlrp.compile(own.eval())(*args, **kwargs)
    for text in texts:
        assert text in str(caught.value)


def test_shape_that_does_not_fit_the_model() -> None:
    attributor = fxlrp.compile(mlp(), (X,))
    with pytest.raises(fxlrp.CaptureError, match=r"(?s)Sequential could not be captured.*run on these inputs"):
        attributor(torch.ones(3, 5, dtype=torch.float64))
    attributor(X)


def test_dtype_that_does_not_fit_the_model() -> None:
    with pytest.raises(fxlrp.SignatureError, match=r"(?s)failed on these inputs.*same dtype.*Compare their dtypes"):
        fxlrp.compile(mlp())(X.float())


@pytest.mark.parametrize(
    ("args", "kwargs"), [((X[:2],), {}), ((X.float(),), {}), ((X[None],), {})], ids=["size", "dtype", "rank"]
)
def test_exported_program_takes_what_it_was_exported_for(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    attributor = fxlrp.compile(torch.export.export(mlp(), (X,)))
    with pytest.raises(fxlrp.SignatureError) as caught:
        attributor(*args, **kwargs)
    assert "do not fit the program that was exported" in str(caught.value)
    assert "input: (3, 4) torch.float64" in str(caught.value)


@pytest.mark.parametrize(("args", "kwargs"), [((X, X), {}), ((), {}), ((), {"input": X})])
def test_exported_program_takes_its_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    attributor = fxlrp.compile(torch.export.export(mlp(), (X,)))
    with pytest.raises(fxlrp.SignatureError, match="inputs as at its export") as caught:
        attributor(*args, **kwargs)
    assert "input: (3, 4) torch.float64" in str(caught.value)


# names


def test_unknown_preset() -> None:
    with pytest.raises(fxlrp.RuleError, match=r"there is no preset 'lrp'; there are auto, attnlrp, .*gradient"):
        fxlrp.compile(mlp(), rules="lrp")


def test_rules_for_something_else() -> None:
    rule = fxlrp.Rule("any", "linear", lambda site, c: (c,))
    with pytest.raises(fxlrp.RuleError, match=r"aten.add is a packet of overloads.*aten.add.Tensor"):
        fxlrp.compile(mlp(), rules={torch.ops.aten.add: rule})
    with pytest.raises(fxlrp.RuleError, match=r"a rule is for an op overload .*, not for <function relu"):
        fxlrp.compile(mlp(), rules={nn.functional.relu: rule})


def test_unknown_backend() -> None:
    with pytest.raises(fxlrp.SignatureError, match="backend='tpu' is none of 'eager', 'inductor'"):
        fxlrp.compile(mlp(), backend="tpu")


@pytest.mark.parametrize(
    ("read", "text"),
    [
        ("layer9", "read='layer9' fits no module, no graph node and no parameter"),
        (("0", "head*"), r"read='head\*' fits no module, no graph node and no parameter"),
        ("p_0_weight", "read='p_0_weight' fits no module, no graph node and no parameter"),
    ],
)
def test_unknown_read(read: Any, text: str) -> None:
    with pytest.raises(fxlrp.SignatureError, match=f"{text}. Close to it: "):
        fxlrp.compile(mlp(), read=read)(X)


def test_unknown_read_names_what_is_close() -> None:
    with pytest.raises(fxlrp.SignatureError, match=r"Close to it: .*linear"):
        fxlrp.compile(mlp(), read="linaer")(X)


class Container(nn.Module):
    def __init__(self, pack: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(x)


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], Any, str]] = {
    "name in a dictionary": (
        lambda x: {"logits": x, "loss": x.sum()},
        "score",
        "output='score' is not part of the model's output, which is dict with 'logits', 'loss'",
    ),
    "index of a tuple": (lambda x: (x, x * 2), 2, "output=2 is not part of the model's output, which is tuple of 2"),
    "name in a tensor": (lambda x: x * 2, "logits", "output='logits' is not part of .* one torch.float64 tensor"),
    "integers": (lambda x: x.argmax(1), None, "must be a real floating point tensor, not one torch.int64 tensor"),
    "integers only": (lambda x: (x.argmax(1), 3), None, "returns no floating point tensor.*nothing to explain"),
    "no tensor": (lambda x: (3, "a"), None, "the model returns no tensor, so that there is nothing to explain"),
    "complex": (lambda x: torch.complex(x, x), None, "must be a real floating point tensor, not one torch.complex128"),
    "function that fails": (lambda x: x * 2, lambda y: y.logits, "(?s)output= or objective= failed.*AttributeError"),
    "function to a number": (lambda x: x * 2, lambda y: 3.0, "must be a real floating point tensor, not float"),
    "constant": (
        lambda x: torch.ones(3, 2),
        None,
        "no differentiable path leads from an input to the explained output.*inputs: x",
    ),
    "cut by the author": (lambda x: x.detach() * 2, None, "no differentiable path leads from an input"),
    "steps": (lambda x: x.round(), None, "no differentiable path leads from an input"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_output_errors(name: str) -> None:
    pack, output, text = OUTPUTS[name]
    with pytest.raises(fxlrp.SignatureError, match=text):
        fxlrp.compile(Container(pack).eval(), output=output)(X)


def test_objective_that_fails() -> None:
    with pytest.raises(fxlrp.SignatureError, match=r"(?s)objective= failed.*for objective=, one number per sample"):
        fxlrp.compile(mlp(), objective=lambda y: y[:, 17])(X)


def test_integer_input_without_a_lookup() -> None:
    own = Container(lambda ids: nn.functional.one_hot(ids, 5).float() @ torch.ones(5, 2)).eval()
    with pytest.raises(fxlrp.SignatureError, match=r"no differentiable path leads from an input.*inputs: x"):
        fxlrp.compile(own)(torch.tensor([1, 2]))


@pytest.mark.parametrize("ask", [lambda a: a.program, lambda a: a.coverage()], ids=["program", "coverage"])
def test_asking_before_the_first_call(ask: Callable[[Any], Any]) -> None:
    with pytest.raises(fxlrp.SignatureError, match=r"nothing is captured yet: call the attributor once.*args=\(x,\)"):
        ask(fxlrp.compile(mlp()))


def said(tree: ast.AST) -> Iterator[str]:
    """Every text of a module that users may read: all but docstrings and markup."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield from [] if "<" in node.value or '="' in node.value else [node.value]


def names_of_arguments() -> set[str]:
    """Those of everything public, and of views in ``read=``."""
    found = set(VIEWS)
    measures = [import_module(f"fxlrp.evaluate.{one.name}") for one in iter_modules(fxlrp.evaluate.__path__)]
    modules = [fxlrp, fxlrp.rules.presets, fxlrp.rules.weighted, fxlrp.tuning.candidates, fxlrp.vision, *measures]
    things = [getattr(module, name) for module in modules for name in getattr(module, "__all__", dir(module))]
    things = [one for one in things if getattr(one, "__module__", "").startswith("fxlrp")]
    classes = [one for one in things if inspect.isclass(one) and not issubclass(one, Exception)]
    methods = [one for cls in classes for name, one in vars(cls).items() if name[0] != "_" or name == "__call__"]
    for function in [*filter(inspect.isfunction, [*things, *methods]), *classes]:
        found |= inspect.signature(function).parameters.keys()
    return found


def test_advice_names_arguments_that_exist() -> None:
    program = typer.main.get_command(app)
    commands = [program, *program.commands.values()]
    options = {option for command in commands for one in command.params for option in [*one.opts, *one.secondary_opts]}
    arguments = names_of_arguments()
    count = 0
    for path in sorted(Path(fxlrp.__file__).parent.rglob("*.py")):
        for text in said(ast.parse(path.read_text())):
            for name in re.findall(r"(?<![\w.{-])([a-z][a-z_]*)=(?!=)", text):
                assert name in arguments, f"{path.name}: {text!r} speaks of {name}="
                count += 1
            for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text):
                assert option in options, f"{path.name}: {text!r} speaks of {option}"
                count += 1
    assert count > 40


def test_every_error_has_one_base() -> None:
    errors = [getattr(fxlrp, name) for name in fxlrp.__all__ if name.endswith(("Error", "Rules"))]
    assert len(errors) == 8
    assert all(issubclass(error, fxlrp.FxlrpError) and error.__doc__ for error in errors)
