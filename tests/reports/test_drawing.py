"""Pictures: every node once, inside its modules, painted by kind; safe text; a page that works by itself."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import networkx as nx
import pytest
import torch
from browser import Browser
from deep import DEEP
from tiers import leave_to_slow
from torch import Tensor, nn
from typer.testing import CliRunner
from zoo import ZOO

import fxlrp
from fxlrp.cli.app import app
from fxlrp.errors import FxlrpError, SignatureError
from fxlrp.ir import topology
from fxlrp.ir.rule import RULES
from fxlrp.reports.drawing import dot
from fxlrp.reports.drawing.graph import write_picture
from fxlrp.reports.drawing.page import make_page
from fxlrp.reports.drawing.picture import NODE_KINDS, Edge, Node, Picture, View
from fxlrp.reports.drawing.picture_of_plan import make_picture

SVG = "{http://www.w3.org/2000/svg}"
NASTY = '</script><b id="nasty">&"\'\\N <!--'


@torch.library.custom_op("pictures::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x * 2


@mystery.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def double(ctx: object, grad: Tensor) -> Tensor:
    return grad * 2


mystery.register_autograd(double)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.gate = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) * torch.sigmoid(self.gate(x))


class Small(nn.Module):
    """Two inputs, a gate, a stop, a module called twice, and two ops without a rule on one of the ways."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.head = nn.Sequential(nn.Linear(4, 3))
        setattr(self, NASTY.replace(".", ""), nn.ReLU())

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        y = self.inner(self.inner(x)) + mystery(other) + mystery(other.detach())
        y = getattr(self, NASTY.replace(".", ""))(y) + torch.sort(mystery(x)).values
        return self.head(y)


@pytest.fixture(scope="module")
def small() -> fxlrp.attributor.Attributor:
    torch.manual_seed(0)
    attributor = fxlrp.compile(Small().double().eval(), strict=False)
    x, other = torch.randn(2, 2, 4, dtype=torch.float64)
    with pytest.warns(UserWarning, match="no rule"):
        attributor(x, other, target=1)
    return attributor


def pictured(attributor: fxlrp.attributor.Attributor) -> Picture:
    entry, program = attributor._programs.last
    return make_picture(entry.plan, attributor.rules, program, title=f"Model {NASTY}")


def payload(text: str) -> dict:
    """The data of a page, as its script reads it."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


@cache
def compiled(name: str) -> fxlrp.attributor.Attributor:
    model, args, kwargs = ZOO[name]()
    return fxlrp.compile(model, args, kwargs, rules="attnlrp")


@pytest.fixture(scope="module", params=leave_to_slow(["resnet50", "llama", "flan_t5", "mixtral"], but={"llama"}))
def drawn(request: pytest.FixtureRequest) -> tuple[fxlrp.attributor.Attributor, Picture]:
    attributor = compiled(request.param)
    return attributor, pictured(attributor)


def test_every_node_is_in_the_picture_once(drawn) -> None:
    attributor, made = drawn
    entry, program = attributor._programs.last
    for view, graph in zip(made.views.values(), (entry.plan.captured.graph, program.module.graph), strict=True):
        assert [node.name for node in view.nodes] == [node.name for node in graph.nodes]
        edges = Counter((edge.start, edge.end) for edge in view.edges)
        assert edges == Counter((n.name, node.name) for node in graph.nodes for n in node.all_input_nodes)


def test_kinds_follow_the_plan(drawn) -> None:
    attributor, made = drawn
    plan = attributor._programs.last[0].plan
    kinds = {node.name: node.kind for node in made.views["model"].nodes}
    live = {node.name for node in plan.twins}
    sources = {source.node.name for source in plan.sources}
    passive = {"input", "stopped", "frozen", "output", "step", "quiet", "constant"}
    assert {name for name, kind in kinds.items() if kind not in passive} == live
    assert {name for name, kind in kinds.items() if kind == "input"} == sources - live
    assert {name for name, kind in kinds.items() if kind == "constant"} == {n.name for n in plan.captured.names}
    assert set(kinds.values()) <= NODE_KINDS.keys()


def test_relevance_edges_are_the_live_slots(drawn) -> None:
    attributor, made = drawn
    plan = attributor._programs.last[0].plan
    leaves = fxlrp.passes.analyses.liveness.flatten_arguments
    slots = {(leaves(n)[i].name, n.name) for n, twin in plan.twins.items() for i in twin.slots}
    assert {(edge.start, edge.end) for edge in made.views["model"].edges if edge.live} == slots


def test_nesting_follows_module_paths(drawn) -> None:
    attributor, made = drawn
    modules = {name for name, _ in attributor.model.named_modules()}
    inside = {node.name: [path for path, _ in node.boxes] for node in made.views["model"].nodes}
    for node in attributor._programs.last[0].plan.captured.graph.nodes:
        if node.op == "call_function":
            assert [p for p in fxlrp.ir.provenance.find_modules(node) if p] == inside[node.name]
    assert {path.partition("@")[0] for paths in inside.values() for path in paths} <= modules


def test_the_program_is_linked_to_the_model(drawn) -> None:
    _, made = drawn
    model = {node.name: node for node in made.views["model"].nodes}
    parts: dict[str, set[str]] = {}
    for node in made.views["relevance program"].nodes:
        if node.origin:
            part, *rest = node.boxes
            assert tuple(rest) == model[node.origin].boxes
            assert node.kind == model[node.origin].kind
            parts.setdefault(node.origin, set()).add(part[0])
    ruled = {name for name, node in model.items() if node.kind in ("product", "pointwise", "softmax")}
    assert ruled
    assert all("forward pass" in parts[name] for name in ruled)
    assert len([name for name in ruled if "relevance pass" in parts[name]]) > len(ruled) / 2


def test_the_page_holds_the_picture(drawn) -> None:
    _, made = drawn
    text = make_page(made)
    found = payload(text)
    for raw, view in zip(found["views"], made.views.values(), strict=True):
        strings = found["strings"]
        assert [strings[i] for i in raw["nodes"]["name"]] == [node.name for node in view.nodes]
        for i, node in enumerate(view.nodes):
            chain, box = [], raw["box"][i]
            while box >= 0:
                path, kind, box = raw["boxes"][box]
                chain.append((strings[path], strings[kind]))
            assert tuple(reversed(chain)) == node.boxes
        assert len(raw["edges"]) == len(view.edges)
    assert not re.search(r"https?:(?!//www\.w3\.org/2000/svg)|src=|@import|url\(", text.replace(json.dumps(found), ""))


def test_text_of_users_cannot_leave_the_data(small) -> None:
    made = pictured(small)
    text = make_page(made)
    assert text.count("<b id=") == 0
    assert payload(text)["title"] == f"Model {NASTY}"
    assert any(NASTY.replace(".", "") in string for string in payload(text)["strings"])


def test_a_missing_op_is_painted_and_listed(small, tmp_path: Path) -> None:
    made = pictured(small)
    missing = [node for node in made.views["model"].nodes if node.kind == "missing"]
    assert [node.op for node in missing] == ["pictures.mystery.default"] * 2
    assert made.missing == {missing[0].name: ("other",), missing[1].name: ()}
    assert payload(make_page(made))["missing"] == {name: list(inputs) for name, inputs in made.missing.items()}
    root = ET.parse(small.graph(tmp_path / "small.svg")).getroot()
    painted = [g for g in root.iter(f"{SVG}g") if "missing" in g.get("class", "").split()]
    assert {g.get("id") for g in painted} == made.missing.keys()
    red = NODE_KINDS["missing"].fill
    assert all(any(shape.get("fill") == red for shape in g.iter(f"{SVG}path")) for g in painted)
    assert "2 ops without a rule" in "".join(root.itertext())


@pytest.fixture
def ruled():
    """A rule for the op that has none."""
    op = torch.ops.pictures.mystery.default

    @fxlrp.rule(op, kind="linear")
    def doubled(site: fxlrp.Site, c: Tensor) -> tuple[Tensor, ...]:
        return (2 * c,)

    yield
    del RULES[op]


@pytest.mark.usefixtures("ruled")
def test_a_rule_ends_the_alarm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, other = torch.randn(2, 2, 4, dtype=torch.float64)
    attributor = fxlrp.compile(Small().double().eval(), (x, other))
    made, report = pictured(attributor), attributor.coverage()
    assert made.missing == {}
    assert report.covered == report.live
    kinds = [node.kind for node in made.views["model"].nodes if node.op == "pictures.mystery.default"]
    assert sorted(kinds)[-2:] == ["linear", "linear"]
    assert "missing" not in kinds
    assert payload(attributor.graph(tmp_path / "a.html").read_text())["missing"] == {}
    root = ET.parse(attributor.graph(tmp_path / "a.svg")).getroot()
    assert not [g for g in root.iter(f"{SVG}g") if "missing" in g.get("class", "").split()]
    assert "without a rule" not in "".join(root.itertext())


def test_kinds_of_what_passes_nothing_on(small) -> None:
    kinds = {node.name: node.kind for node in pictured(small).views["model"].nodes}
    assert kinds["sigmoid"] == kinds["linear_1"] == "frozen"
    assert kinds["mystery_1"] == "quiet" or kinds["mystery_1"] == "frozen"
    assert kinds["x"] == kinds["other"] == "input"


def test_numbers_of_nodes_and_edges(small, tmp_path: Path) -> None:
    x, other = torch.randn(2, 2, 4, dtype=torch.float64)
    result = small(x, other, target=1)
    path = small.graph(tmp_path / "small.html", x, other, target=1, ledger=small.ledger(x, other, target=1))
    found = payload(path.read_text())
    raw, strings = found["views"][0], found["strings"]
    names = [strings[i] for i in raw["nodes"]["name"]]
    numbers = {names[int(i)]: row for i, row in raw["numbers"].items()}
    for name, relevance in result.relevance.items():
        assert numbers[name]["received"] == pytest.approx(float(relevance.sum()), rel=1e-5)
        flows = [edge[3] for edge in raw["edges"] if names[edge[0]] == name and edge[2]]
        assert sum(flows) >= float(relevance.abs().sum()) * (1 - 1e-5)
    (end,) = [name for name, i in zip(names, raw["nodes"]["formula"], strict=True) if "explained" in strings[i]]
    assert numbers[end]["received"] == pytest.approx(float(result.output[:, 1].sum()), rel=1e-5)
    assert {"absorbed", "leaked", "stabiliser", "magnitude"} <= numbers[end].keys()


def test_a_single_edge_carries_all_relevance(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False)).double().eval()
    x = torch.randn(2, 4, dtype=torch.float64)
    attributor = fxlrp.compile(model)
    result = attributor(x, target=0)
    found = payload(attributor.graph(tmp_path / "a.html", x, target=0).read_text())
    raw = found["views"][0]
    names = [found["strings"][i] for i in raw["nodes"]["name"]]
    (weight,) = [edge[3] for edge in raw["edges"] if names[edge[0]] == "x" or names[edge[0]] == "input"]
    assert weight == pytest.approx(float(result.relevance.abs().sum()), rel=1e-5)


def test_svg_has_the_nodes_and_the_clusters(drawn, tmp_path: Path) -> None:
    attributor, made = drawn
    root = ET.parse(attributor.graph(tmp_path / "model.svg")).getroot()
    groups = Counter(g.get("class", "none").split()[0] for g in root.iter(f"{SVG}g"))
    shown = [node for node in made.views["model"].nodes if not NODE_KINDS[node.kind].quiet]
    boxes = {node.boxes[:size] for node in shown for size in range(1, len(node.boxes) + 1)}
    assert groups["node"] == len(shown)
    assert groups["cluster"] == len(boxes)
    assert {g.get("id") for g in root.iter(f"{SVG}g")} >= {node.name for node in shown}


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_files_of_graphviz(small, tmp_path: Path, suffix: str, magic: bytes) -> None:
    assert small.graph(tmp_path / f"a.{suffix}", program=suffix == "png").read_bytes().startswith(magic)


def test_large_pictures_close_deep_modules_but_never_around_a_missing_op(small, monkeypatch) -> None:
    monkeypatch.setattr(dot, "MAX_DRAWN", 4)
    made = pictured(small)
    text = dot.make_digraph(made).source
    assert all(f"id={name}" in text for name in made.missing)
    assert "Inner, 4 ops" in text
    assert "id=sigmoid" not in text
    assert "id=sigmoid" in dot.make_digraph(made, depth=9).source


def test_endings_and_order(small, tmp_path: Path) -> None:
    with pytest.raises(FxlrpError, match=r"a\.txt: a picture ends in one of \.html, \.svg, \.png, \.pdf"):
        small.graph(tmp_path / "a.txt")
    with pytest.raises(SignatureError, match="nothing is captured yet"):
        fxlrp.compile(nn.Linear(2, 2).eval()).graph(tmp_path / "a.html")
    assert payload(small.graph(tmp_path / "a.html", program=True).read_text())["first"] == 1


def test_without_graphviz_the_page_still_works(small, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("dot") is None
    with pytest.raises(FxlrpError, match=r"'dot' of graphviz, which is not installed.*ends in \.html"):
        small.graph(tmp_path / "a.svg")
    assert small.graph(tmp_path / "a.html").exists()


def test_questions_about_the_graph(small) -> None:
    graph = nx.DiGraph(["ac", "bc", "cd", "cf", "de", "fe", "eg"])
    assert topology.find_longest_path(graph) in (list("acdeg"), list("acfeg"), list("bcdeg"), list("bcfeg"))
    assert topology.find_bottlenecks(graph, ["a", "b"], "g") == ["c", "e"]
    assert topology.find_relevance_cut(graph, ["a", "b"], "e") == {"c"}
    assert topology.find_relevance_cut(graph, ["a", "b"], "c") == set()
    assert topology.find_cut_off_inputs(graph, ["d"], ["a", "b"], "g") == []
    assert topology.find_cut_off_inputs(graph, ["d", "f"], ["a", "b"], "g") == ["a", "b"]
    assert topology.find_cut_off_inputs(graph, ["a"], ["a", "b"], "g") == ["a"]
    assert topology.find_bottlenecks(graph, ["z"], "g") == []
    program = small.program.to_networkx()
    assert set(program) == {node.name for node in small.program.module.graph.nodes}
    assert nx.is_directed_acyclic_graph(program)


def test_command(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "toy.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Odd(nn.Module):\n    def forward(self, x):\n"
        "        return torch.special.bessel_j1(x)\n\n\ndef build():\n    return Odd(), (torch.rand(2, 4),)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    done = CliRunner().invoke(app, ["graph", "toy:build", "--out", "odd.html"])
    assert done.exit_code == 0, done.output
    assert "1 of 1 live ops have no rule: red in the picture." in done.output
    assert "Wrote odd.html" in done.output
    assert len(payload(Path("odd.html").read_text())["missing"]) == 1
    assert CliRunner().invoke(app, ["graph", "toy:build", "--out", "odd.jpg"]).exit_code == 2
    assert CliRunner().invoke(app, ["graph", "toy:build", "--strict"]).exit_code == 2


# ---- in a browser --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def clean(browser: Browser):
    """A browser whose page must neither fail nor ask for anything but itself."""
    browser.errors.clear()
    browser.requests.clear()
    yield browser
    assert browser.errors == []
    assert len(browser.requests) == 1
    assert browser.requests[0].startswith("file://")


def shown(browser: Browser, selector: str) -> int:
    return browser.evaluate(f"document.querySelectorAll({json.dumps(selector)}).length")


def find(browser: Browser, query: str) -> None:
    browser.evaluate("document.getElementById('search').focus()")
    browser.type(query)
    browser.press("Enter", 13)


EMITTED = """[...document.querySelectorAll("#panel h3")].filter((h) => h.textContent.startsWith("Emitted"))
  .flatMap((h) => [...h.nextSibling.querySelectorAll("button")])"""
IN_SIGHT = """(() => {
  const area = document.getElementById("picture").getBoundingClientRect();
  const item = document.querySelector(".item.chosen").getBoundingClientRect();
  return item.left >= area.left && item.right <= area.right && item.top >= area.top && item.top <= area.bottom;
})()"""


@pytest.mark.external
@pytest.mark.parametrize(
    ("name", "module", "deep"),
    [("resnet50", "layer3", "layer3.4.conv2"), ("llama", "model.layers.11.mlp", "model.layers.14.self_attn.q_proj"),
     ("flan_t5", "decoder.block.20", "encoder.block.22.layer.1.DenseReluDense.wi_0")],
)  # fmt: skip
def test_page_of_a_published_model_in_a_browser(
    name: str, module: str, deep: str, clean: Browser, tmp_path: Path
) -> None:
    model, args, kwargs = DEEP[name]()
    attributor = fxlrp.compile(model, args, kwargs)
    clean.open(attributor.graph(tmp_path / "page.html", *args, **kwargs))
    made = pictured(attributor)
    assert 3 < shown(clean, ".item") < 100
    assert shown(clean, ".edge.live") > 3
    assert (
        len({*clean.evaluate("[...document.querySelectorAll('.edge.live')].map(e => e.getAttribute('stroke-width'))")})
        > 2
    )

    find(clean, module)  # a closed module is found, and opens and closes
    box = f'.item[data-path="{module}"]'
    assert clean.evaluate(f"document.querySelector('{box}').matches('.chosen')")
    before, was = (
        shown(clean, ".item"),
        clean.evaluate(f"document.querySelector('{box}').getAttribute('aria-expanded')"),
    )
    clean.press("Enter", 13)
    assert clean.evaluate(f"document.querySelector('{box}').getAttribute('aria-expanded')") != was
    after = shown(clean, ".item")
    assert (after > before) == (was == "false")
    clean.click(f"document.querySelector('{box}')")
    assert shown(clean, ".item") == before

    node = next(
        n for n in made.views["model"].nodes if n.boxes and n.boxes[-1][0] == deep and not NODE_KINDS[n.kind].quiet
    )
    find(clean, node.name)  # a node deep inside is found, its modules open, and it comes into sight
    assert clean.evaluate("document.querySelector('.item.chosen').dataset.name") == node.name
    assert clean.evaluate(IN_SIGHT)
    text = clean.evaluate("document.getElementById('panel').innerText")
    for part in (node.name, node.op, node.rule, node.shape, node.dtype, node.source, "received", "passed"):
        assert part in text
    twin = next(n for n in made.views["relevance program"].nodes if n.origin == node.name)
    clean.click(f"{EMITTED}.find((button) => button.textContent === {json.dumps(twin.name)})")
    assert clean.evaluate("document.querySelector('#views [aria-pressed=true]').textContent") == "relevance program"
    assert clean.evaluate("document.querySelector('.item.chosen').dataset.name") == twin.name
    assert clean.evaluate("document.getElementById('panel').innerText").count(node.name)

    clean.press("t")
    assert clean.evaluate("document.querySelector('#views [aria-pressed=true]').textContent") == "model"


def repeated(view: View, times: int) -> View:
    """Copies of a view one behind the other, each in a module of its own."""

    def inside(node: Node, i: int) -> Node:
        boxes = ((f"copy.{i}", "Copy"), *((f"copy.{i}.{path}", kind) for path, kind in node.boxes))
        origin = f"{node.origin}_{i}" if node.origin else ""
        return replace(node, name=f"{node.name}_{i}", boxes=boxes, origin=origin)

    nodes = tuple(inside(node, i) for i in range(times) for node in view.nodes)
    edges = [replace(e, start=f"{e.start}_{i}", end=f"{e.end}_{i}") for i in range(times) for e in view.edges]
    first, last = view.nodes[0].name, view.nodes[-1].name
    edges += [Edge(f"{last}_{i}", f"{first}_{i + 1}", live=True) for i in range(times - 1)]
    return View(nodes, tuple(edges))


@pytest.mark.external
def test_a_large_model_stays_closed(clean: Browser, tmp_path: Path) -> None:
    made = pictured(compiled("flan_t5"))
    large = replace(made, views={name: repeated(view, 24) for name, view in made.views.items()})
    assert len(large.views["model"].nodes) > 5000
    assert len(large.views["relevance program"].nodes) > 15000
    clean.open(write_picture(large, tmp_path / "large.html"))
    assert 24 <= shown(clean, ".item") < 100
    node = [n for n in large.views["model"].nodes if n.kind == "product"][-1]
    find(clean, node.name)
    assert clean.evaluate("document.querySelector('.item.chosen').dataset.name") == node.name
    assert clean.evaluate(IN_SIGHT)
    clean.press("t")
    assert 4 <= shown(clean, ".item") < 100
    root = ET.parse(write_picture(large, tmp_path / "large.svg")).getroot()
    assert 24 <= len([g for g in root.iter(f"{SVG}g") if "node" in g.get("class", "").split()]) <= dot.MAX_DRAWN


@pytest.mark.external
def test_everything_opens_and_is_drawn_once(small, clean: Browser, tmp_path: Path) -> None:
    clean.open(small.graph(tmp_path / "page.html"))
    clean.evaluate("document.getElementById('all').click()")
    for _ in range(6):
        clean.press(">")
    names = clean.evaluate("[...document.querySelectorAll('.item[data-name]')].map(e => e.dataset.name)")
    assert sorted(names) == sorted(node.name for node in pictured(small).views["model"].nodes)
    overlaps = clean.evaluate("""(() => {
      const boxes = [...document.querySelectorAll(".item[data-name]")].map((e) => e.getBoundingClientRect());
      return boxes.filter((a, i) => boxes.some((b, j) => j > i && a.left < b.right && b.left < a.right
        && a.top < b.bottom && b.top < a.bottom)).length;
    })()""")
    assert overlaps == 0
    assert shown(clean, "#nasty") == 0
    for _ in range(6):
        clean.press("<")
    assert shown(clean, ".item[data-path]") < 5


@pytest.mark.external
def test_missing_ops_are_red_and_one_click_away(small, clean: Browser, tmp_path: Path) -> None:
    clean.open(small.graph(tmp_path / "page.html"))
    banner = clean.evaluate("document.getElementById('missing').innerText")
    assert banner.startswith("2 ops without a rule")
    assert "alone on the way to other" in banner
    clean.click("document.querySelectorAll('#missing button')[1]")
    chosen = clean.evaluate("document.querySelector('.item.chosen').dataset.name")
    assert chosen == list(pictured(small).missing)[1]
    assert clean.evaluate(IN_SIGHT)
    assert clean.evaluate("getComputedStyle(document.querySelector('.item.missing > rect')).strokeWidth") == "4px"
    assert "NO RULE" in clean.evaluate("document.querySelector('.item.missing').textContent")
    clean.press("n")
    assert clean.evaluate("document.querySelector('.item.chosen').dataset.name") == next(iter(pictured(small).missing))


@pytest.mark.external
def test_a_module_tells_what_stays_in_it(small, clean: Browser, tmp_path: Path) -> None:
    x, other = torch.randn(2, 2, 4, dtype=torch.float64)
    ledger = small.ledger(x, other, target=1)
    clean.open(small.graph(tmp_path / "page.html", x, other, target=1, ledger=ledger))
    row = ledger.by_module(1)["inner"]
    sums = dict.fromkeys(row, 0.0)
    for call in ("inner", "inner@1"):
        find(clean, call)
        told = clean.evaluate("""Object.fromEntries([...document.querySelectorAll("#panel dt")].map(
          (name) => [name.textContent, Number(name.nextSibling.textContent)]))""")
        sums = {name: sums[name] + told[name] for name in row}
    assert abs(row["absorbed"]) > 1e-3
    assert sums == pytest.approx(row, rel=1e-3, abs=1e-9)


@pytest.mark.external
def test_a_module_that_opens_stays_in_sight(clean: Browser, tmp_path: Path) -> None:
    clean.open(compiled("llama").graph(tmp_path / "page.html"))
    find(clean, "model.layers.1.self_attn")
    sides = """(() => {
      const item = document.querySelector(".item.chosen").getBoundingClientRect();
      const area = document.getElementById("picture").getBoundingClientRect();
      return [item.left - area.left, area.right - item.right];
    })()"""
    closed = clean.evaluate(sides)
    clean.press("Enter", 13)
    left, right = clean.evaluate(sides)
    assert left + right < sum(closed) - 300  # it is much wider now
    assert left >= 0
    assert right >= 0


@pytest.mark.external
def test_what_is_chosen_stays_in_sight_when_all_is_shown(clean: Browser, tmp_path: Path) -> None:
    clean.open(compiled("flan_t5").graph(tmp_path / "page.html"))
    find(clean, "decoder.block.1.layer.2")
    assert clean.evaluate("document.getElementById('all').click() ?? true")
    assert clean.evaluate(IN_SIGHT)


def test_parameters_stand_in_the_forward_pass(drawn) -> None:
    _, made = drawn
    program = made.views["relevance program"]
    part = {node.name: node.boxes[0][0] for node in program.nodes if node.boxes}
    users: dict[str, set[str]] = {}
    for edge in program.edges:
        users.setdefault(edge.start, set()).add(part.get(edge.end, ""))
    constants = [node.name for node in program.nodes if node.kind == "constant"]
    used = [name for name in constants if "forward pass" in users.get(name, ())]
    assert used
    assert {part.get(name) for name in used} == {"forward pass"}


@pytest.mark.external
def test_keys_walk_along_the_wires(small, clean: Browser, tmp_path: Path) -> None:
    clean.open(small.graph(tmp_path / "page.html"))
    find(clean, "other")
    clean.press("ArrowDown")
    first = clean.evaluate("document.querySelector('.item.chosen').dataset.name")
    assert first != "other"
    clean.press("ArrowUp")
    assert clean.evaluate("document.querySelector('.item.chosen').dataset.name") == "other"
    clean.press("Escape")
    assert shown(clean, ".item.chosen") == 0
