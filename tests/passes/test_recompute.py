"""Peak memory, measured by torch's profiler: against autograd, and with block interiors computed twice."""

from __future__ import annotations

import copy
import json
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiers import leave_to_slow
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.profiler import ProfilerActivity, profile
from zoo import ZOO, transformers

import fxlrp
from fxlrp import passes
from fxlrp.capture.explained_output import pick_output
from fxlrp.ir.provenance import find_role
from fxlrp.passes.lowering.recompute import RECOMPUTED, recompute
from fxlrp.passes.lowering.release_order import MEMORY, read_early, unpack_early

aten = torch.ops.aten


def peak(run: Callable[[], object], folder: Path) -> int:
    """The most bytes that torch's allocator held at a time for a function, in addition to what it held before."""
    path = folder / "trace.json"
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        run()
    measured.export_chrome_trace(str(path))
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    assert events
    assert held == 0
    return most


class Blocks(nn.Module):
    """A chain of residual blocks, each with wide insides."""

    def __init__(self, depth: int, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(depth))
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for up, down, norm in zip(self.up, self.down, self.norm, strict=True):
            x = x + down(nn.functional.gelu(up(norm(x))))
        return x


def llama(layers: int, tokens: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """Blocks as in Llama, in which values are some kilobytes each."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 4}
    config = transformers.LlamaConfig(**sizes, num_hidden_layers=layers, use_cache=False)
    model = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    ids = torch.randint(100, (1, tokens))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def input_times_gradient(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What autograd needs for the same thing: output, and relevance of each token to a logit of the last one."""
    embedded = model.get_input_embeddings()(inputs["input_ids"]).requires_grad_()
    logits = model(inputs_embeds=embedded, attention_mask=inputs["attention_mask"]).logits
    (gradient,) = torch.autograd.grad(logits[0, -1, 5], embedded)
    return logits.detach(), (embedded.detach() * gradient).sum(-1)


def lowered(module: fx.GraphModule) -> tuple[fx.GraphModule, int]:
    """A copy of a program that keeps less, and the number of nodes that it computes twice."""
    found = copy.deepcopy(module)
    return found, passes.run_passes(found, MEMORY["low"])["recompute segments"]


@torch.no_grad()
def peaks(module: fx.GraphModule, tensors: tuple[Tensor, ...], folder: Path) -> tuple[int, int]:
    """Peak of a program, and of the same one that keeps less."""
    low, _ = lowered(module)
    return peak(lambda: module(*tensors), folder), peak(lambda: low(*tensors), folder)


@pytest.mark.slow
def test_no_more_than_autograd_and_with_low_at_most_half(tmp_path: Path) -> None:
    model, inputs = llama(12, 128)
    baseline = peak(lambda: input_times_gradient(model, inputs), tmp_path)
    module = fxlrp.compile(model, kwargs=inputs, rules="attnlrp").program.module
    target = torch.tensor([[-1, -1]])
    normal, low = peaks(module, (inputs["attention_mask"], inputs["input_ids"], target), tmp_path)
    assert normal <= baseline
    assert low <= 0.5 * baseline


@pytest.mark.slow
def test_peak_grows_as_the_root_of_depth(tmp_path: Path) -> None:
    """Four times the depth: about twice the memory, where keeping everything takes four times as much."""
    x, target = torch.randn(64, 32), torch.full((64, 1), -1)
    (small, small_low), (large, large_low) = (
        peaks(program(Blocks(depth), x), (x, target), tmp_path) for depth in (8, 32)
    )
    assert large > 3 * small
    assert large_low < 2.5 * small_low
    assert large_low < 0.5 * large


DEEP = ("resnet50", "wav2vec2", "whisper", "siglip2", "mamba", "lstm", "mixtral")


@pytest.mark.parametrize("name", leave_to_slow(DEEP, but={"lstm"}))
def test_same_numbers(name: str) -> None:
    """Convolutions, two towers, an encoder beside a decoder, steps in time, experts."""
    model, args, kwargs = ZOO[name](2)
    attributor = fxlrp.compile(model, args, kwargs)
    module = attributor.program.module
    low, count = lowered(module)
    tensors = [*args, *dict(sorted(kwargs.items())).values()]
    with torch.no_grad():
        rank = pick_output(model(*args, **kwargs), None).ndim
        target = torch.full((2, rank - 1), -1)  # the largest
        for found, expected in zip(low(*tensors, target), module(*tensors, target), strict=True):
            assert torch.equal(found, expected)
    roles = [find_role(node) for node in low.graph.nodes]
    assert 0 < roles.count(RECOMPUTED) == count < roles.count("forward")


def program(model: nn.Module, x: Tensor) -> fx.GraphModule:
    return fxlrp.compile(model.eval(), (x,)).program.module


def test_insides_are_computed_twice_and_borders_once() -> None:
    low, count = lowered(program(Blocks(16), torch.randn(4, 32)))
    again = [node for node in low.graph.nodes if find_role(node) == RECOMPUTED]
    assert len(again) == count
    wide = [node for node in again if node.target is aten.addmm.default and node.meta["val"].shape == (4, 128)]
    sums = [node for node in again if node.target is aten.add.Tensor]
    assert 8 <= len(wide) < 16  # the last segment is needed at once
    assert len(sums) < len(wide)  # some sums are borders


@pytest.mark.parametrize("model", [nn.Linear(32, 3), nn.Sequential(nn.Linear(32, 3), nn.GELU()), Blocks(1)])
def test_small_models_stay_as_they_are(model: nn.Module) -> None:
    module = program(model, torch.randn(4, 32))
    before = str(module.graph)
    assert recompute(module.graph) == 0
    assert str(module.graph) == before


class Noisy(Blocks):
    """Blocks whose insides are scaled by random numbers."""

    def forward(self, x: Tensor) -> Tensor:
        for up, down in zip(self.up, self.down, strict=True):
            inside = nn.functional.gelu(up(x))
            x = x + down(inside * torch.rand_like(inside))
        return x


@pytest.mark.slow
def test_random_numbers_are_drawn_once() -> None:
    x = torch.randn(4, 32)
    model = Noisy(16).eval()
    found = []
    for memory in MEMORY:
        attributor = fxlrp.compile(model, (x,), memory=memory, verify="never")
        torch.manual_seed(1)
        found.append(attributor(x, target=2).relevance)
        drawn = [n for n in attributor.program.module.graph.nodes if n.target is aten.rand_like.default]
        assert len(drawn) == 16
    assert torch.equal(*found)


@pytest.mark.slow
def test_sizes_that_change() -> None:
    x = torch.randn(6, 32, dtype=torch.float64)
    model = Blocks(16).double().eval()
    fixed = fxlrp.compile(model)
    low = fxlrp.compile(model, dynamic_shapes=({0: Dim.AUTO},), memory="low")
    for n in (4, 6, 3):
        torch.testing.assert_close(low(x[:n], target=1).relevance, fixed(x[:n], target=1).relevance)
    assert RECOMPUTED in {find_role(n) for n in low.program.module.graph.nodes}
    assert repr(low).endswith("1 signatures)")


def test_unknown_name() -> None:
    with pytest.raises(fxlrp.SignatureError, match="memory='lower' is none of 'normal', 'low'"):
        fxlrp.compile(nn.Linear(2, 2).eval(), memory="lower")


@pytest.mark.slow
def test_places_read_inside() -> None:
    """What is read keeps its value; the rest is computed twice."""
    x = torch.randn(4, 32)
    model = Blocks(16).eval()
    results: list[Any] = [fxlrp.compile(model, read=("up.*",), memory=memory)(x, target=1) for memory in MEMORY]
    assert results[0].read.keys() == results[1].read.keys()
    for name, value in results[0].read.items():
        assert torch.equal(results[1].read[name], value)


def test_outputs_of_an_op_are_taken_apart_at_once() -> None:
    """Of a norm, what it returns goes on, and its statistics stay."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    norm = graph.call_function(aten.native_layer_norm.default, (x, [4], None, None, 1e-5))
    y = graph.call_function(operator.getitem, (norm, 0))
    z = graph.call_function(aten.relu.default, (y,))
    mean = graph.call_function(operator.getitem, (norm, 1))
    graph.output((z, mean))
    assert unpack_early(graph) > 0
    graph.lint()
    assert [node.name for node in graph.nodes] == ["x", norm.name, y.name, mean.name, z.name, "output"]
    assert unpack_early(graph) == 0


def test_relevance_is_read_where_it_arrives() -> None:
    """Nothing that has to do with a place stays until the end, nor moves before what it needs."""
    x = torch.randn(4, 32)
    places = ("up.*", "norm.*")
    module = fxlrp.compile(Blocks(4).eval(), (x,), read=places).program.module
    module.graph.lint()
    assert read_early(module.graph) == 0
    index = {node: i for i, node in enumerate(module.graph.nodes)}
    _, _, *reads = module.graph.output_node().args[0]
    assert len(reads) == 8
    for read in reads:  # the product of a value and what arrived there
        arrived = max(index[n] for n in read.all_input_nodes if find_role(n))
        between = [n for n in index if arrived < index[n] < index[read]]
        assert all(find_role(n) == "" for n in between)


@pytest.mark.slow
def test_peak_with_reads(tmp_path: Path) -> None:
    """Places inside blocks cost what is returned for them, and little more."""
    x, target = torch.randn(64, 32), torch.full((64, 1), -1)
    with_reads, without = (fxlrp.compile(Blocks(16).eval(), (x,), read=read).program.module for read in (("up.*",), ()))
    returned = 16 * 64 * 128 * x.itemsize
    (normal, low), (normal_without, low_without) = (
        peaks(module, (x, target), tmp_path) for module in (with_reads, without)
    )
    assert low - low_without <= 1.2 * returned
    assert normal - normal_without <= 1.2 * returned
