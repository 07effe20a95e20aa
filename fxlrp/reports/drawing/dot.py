"""A picture as SVG, PNG or PDF, drawn by graphviz."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from html import escape
from typing import Any

import graphviz

from fxlrp.errors import FxlrpError
from fxlrp.reports.drawing.picture import NODE_KINDS, Boxes, Edge, Node, Picture, View

FORMATS = ("svg", "png", "pdf")
MAX_DRAWN = 700
"""How many nodes are drawn before the innermost modules are closed."""
FONT = {"fontname": "Helvetica,Arial,sans-serif", "fontsize": "11"}


def render(picture: Picture, format: str, program: bool = False, depth: int | None = None) -> bytes:
    """Draw a graph as a file of graphviz.

    Args:
        picture: What to draw.
        format: One of `FORMATS`.
        program: Draw the relevance program and not the model.
        depth: Close modules this deep and deeper; by default as deep as `MAX_DRAWN` allows. A module that holds an op
            without a rule is never closed.

    Raises:
        FxlrpError: If the program dot of graphviz is not installed.
    """
    try:
        return bytes(make_digraph(picture, program, depth).pipe(format=format))
    except graphviz.ExecutableNotFound:
        raise FxlrpError(
            f"drawing {format} needs the program 'dot' of graphviz, which is not installed (Debian: apt-get install "
            "graphviz). A file that ends in .html needs nothing."
        ) from None


def make_digraph(picture: Picture, program: bool = False, depth: int | None = None) -> graphviz.Digraph:
    """Write the picture in the language of graphviz."""
    view = list(picture.views.values())[program]
    nodes = [node for node in view.nodes if not NODE_KINDS[node.kind].quiet]
    if depth is None:
        depth = find_depth(nodes)
    open_boxes = {node.boxes[:size] for node in nodes if node.kind == "missing" for size in range(len(node.boxes) + 1)}
    shown: dict[str, Node | Boxes] = {
        node.name: find_closed_module(node.boxes, depth, open_boxes) or node for node in nodes
    }
    graph = graphviz.Digraph(node_attr={**FONT, "shape": "box", "style": "filled,rounded"})
    graph.attr("edge", arrowsize="0.6")
    graph.attr(labelloc="t", ranksep="0.35", nodesep="0.2", label=write_legend(picture, nodes), **FONT)
    names = {key: f"n{i}" for i, key in enumerate(dict.fromkeys(map(identify, shown.values())))}
    draw_modules(graph, shown, names)
    for (start, end), edges in merge_edges(view, shown).items():
        graph.edge(names[start], names[end], **style_edge(edges, find_strongest(view)))
    return graph


def find_depth(nodes: list[Node]) -> int:
    """Find the greatest depth of open modules at which few enough things are drawn."""
    deepest = max((len(node.boxes) for node in nodes), default=0)
    for depth in range(deepest, 0, -1):
        if len({node.boxes[: depth + 1] if len(node.boxes) > depth else node.name for node in nodes}) <= MAX_DRAWN:
            return depth
    return 0


def find_closed_module(boxes: Boxes, depth: int, open_boxes: set[Boxes]) -> Boxes:
    """Find the outermost closed module around a node; nothing if all are open."""
    sizes = (size for size in range(depth + 1, len(boxes) + 1) if boxes[:size] not in open_boxes)
    return boxes[: next(sizes, 0)]


def identify(item: Node | Boxes) -> Any:
    """Return what identifies a drawn thing."""
    return item.name if isinstance(item, Node) else item


def draw_modules(graph: graphviz.Digraph, shown: Mapping[str, Node | Boxes], names: Mapping[Any, str]) -> None:
    """Draw nodes and closed modules inside nested clusters."""
    inside: dict[Boxes, dict[Any, Node | Boxes]] = defaultdict(dict)
    count = Counter(identify(item) for item in shown.values())
    for item in shown.values():
        chain = item.boxes if isinstance(item, Node) else item[:-1]
        inside[chain][identify(item)] = item
        for size in range(len(chain)):
            inside[chain[:size]].setdefault(chain[: size + 1], ())
    numbers = {chain: i for i, chain in enumerate(inside)}

    def draw(into: graphviz.Digraph, chain: Boxes) -> None:
        for key, item in inside[chain].items():
            if isinstance(item, Node):
                into.node(names[key], **style_node(item))
            elif item:
                into.node(names[key], **style_box(item, count[key]))
            else:
                with into.subgraph(name=f"cluster_{numbers[key]}") as cluster:
                    cluster.attr(**style_cluster(key))
                    draw(cluster, key)

    draw(graph, ())


def escape_text(text: str) -> str:
    """Escape text so that graphviz takes it as it stands."""
    return str(graphviz.escape(text))


def shorten_path(path: str, outer: str) -> str:
    """Cut the path of the module around it, of whichever call, from a module's path."""
    return path.removeprefix(f"{outer.partition('@')[0]}.") if outer else path


def style_node(node: Node) -> dict[str, str]:
    """Say how a node looks."""
    kind = NODE_KINDS[node.kind]
    parts = node.op.split(".")
    title = ".".join(parts[1:2] if parts[0] == "aten" else parts[:2]) if len(parts) > 1 else node.name
    found = {
        "label": escape_text(f"{title}\n{node.shape}" if node.shape else title),
        "fillcolor": kind.fill,
        "color": kind.line,
        "id": node.name,
        "class": node.kind,
        "tooltip": escape_text("\n".join(filter(None, (node.name, node.op, node.rule, node.formula, node.source)))),
    }
    if kind.dashed:
        found["style"] = "filled,rounded,dashed"
    if node.kind == "input":
        found["fontcolor"] = "white"
    if node.kind == "missing":
        label = escape_text(f"NO RULE\n{node.op}\n{node.source.partition('  ')[0]}")
        found |= {"label": label, "fontcolor": "white", "fontsize": "20", "penwidth": "6", "margin": "0.3,0.2"}
    return found


def style_box(chain: Boxes, count: int) -> dict[str, str]:
    """Say how a closed module looks."""
    path, kind = chain[-1]
    label = f"{shorten_path(path, chain[-2][0] if len(chain) > 1 else '')}\n{kind.rpartition('.')[2]}, {count} ops"
    return {"label": escape_text(label), "shape": "box3d", "style": "filled", "fillcolor": "#ffffff",
            "color": "#8d97a8", "class": "module", "tooltip": escape_text(path)}  # fmt: skip


def style_cluster(chain: Boxes) -> dict[str, str]:
    """Say how an open module looks."""
    path, kind = chain[-1]
    title = f"{shorten_path(path, chain[-2][0] if len(chain) > 1 else '')}: {kind.rpartition('.')[2]}"
    return {"label": escape_text(title), "labeljust": "l", "style": "rounded,filled", "color": "#b9c1cd",
            "fillcolor": "#eef1f6" if len(chain) % 2 else "#ffffff", "tooltip": escape_text(path), **FONT}  # fmt: skip


def merge_edges(view: View, shown: Mapping[str, Node | Boxes]) -> dict[tuple[Any, Any], list[Edge]]:
    """Group edges by what they join in the picture."""
    found: dict[tuple[Any, Any], list[Edge]] = defaultdict(list)
    for edge in view.edges:
        if edge.start in shown and edge.end in shown:
            ends = identify(shown[edge.start]), identify(shown[edge.end])
            if ends[0] != ends[1]:
                found[ends].append(edge)
    return found


def find_strongest(view: View) -> float:
    """Find the most relevance along any edge."""
    return max((edge.weight for edge in view.edges if edge.weight is not None), default=0.0)


def style_edge(edges: list[Edge], most: float) -> dict[str, str]:
    """Say how an edge looks: the more relevance, the wider."""
    if not any(edge.live for edge in edges):
        return {"color": "#9da6b5", "penwidth": "0.8"}
    weight = sum(edge.weight or 0.0 for edge in edges)
    wide = 0.8 + 7.2 * min(1.0, (weight / most) ** 0.5) if most else 1.6
    found = {"color": "#44546e", "penwidth": f"{wide:.2f}"}
    return found | {"tooltip": f"{weight:.4g} of absolute relevance"} if most else found


def write_legend(picture: Picture, nodes: list[Node]) -> str:
    """Write title, ops without a rule, and what the colours mean, as a table above the graph."""
    counts = Counter(node.kind for node in nodes)
    cells = "".join(
        f'<TD BGCOLOR="{kind.fill}" COLOR="{kind.line}" BORDER="1"><FONT COLOR="{choose_text_colour(name)}">'
        f"{escape(kind.label)} {counts[name]}</FONT></TD>"
        for name, kind in NODE_KINDS.items()
        if counts[name]
    )
    lines = [f"<B>{escape(picture.title)}</B>: {escape(picture.rules)}"]
    if picture.missing:
        named = {node.name: f"{node.op}  {node.source}" for node in nodes if node.name in picture.missing}
        alarm = f"{len(named)} op{'s' if len(named) > 1 else ''} without a rule"
        alarms = (alarm, *named.values())
        lines += [f'<FONT COLOR="#d30c0c" POINT-SIZE="22"><B>{escape(text)}</B></FONT>' for text in alarms]
    rows = "".join(f'<TR><TD COLSPAN="{len(counts)}" BORDER="0" ALIGN="LEFT">{line}</TD></TR>' for line in lines)
    return f'<<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="4" CELLPADDING="4">{rows}<TR>{cells}</TR></TABLE>>'


def choose_text_colour(kind: str) -> str:
    """Choose the colour of text on a kind's ground."""
    return "white" if kind in ("missing", "input") else "black"
