"""Conditional relevance of many channels in one call, beside a call for each: ``python benchmarks/conditions.py``.

Each map is the relevance of one class through one channel of a layer in the middle (Achtibat et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product

import torch
from compiled import rules
from measure import Spread, arguments, bars, distance, finish, surroundings
from networks import Network, Sizes, build
from speed import Call, measure, shown
from torch import Tensor

import fxlrp

LAYERS = {"vgg16": "features.21", "resnet50": "layer3"}
"""Where relevance goes on through one channel only."""
CHUNKS = (1, 8, 25)
RULES = ("epsilon", "epsilon_plus_flat")
"""The second is what Achtibat et al. 2023 use: its convolutions by positive weights are shared by all maps."""
KIND = "conditional relevance"


def explain_apart(attributor: fxlrp.Attributor, network: Network, layer: str, channels: int) -> Tensor:
    """A call for each channel."""
    masks = ({f"{layer}:channels={i}": torch.ones(())} for i in range(channels))
    maps = (attributor(*network.args, target=network.call, keep=mask).relevance for mask in masks)
    return torch.stack(list(maps))


def explain_together(attributor: fxlrp.Attributor, network: Network, layer: str, channels: int, chunk: int) -> Tensor:
    """One call."""
    conditions = [{layer: i} for i in range(channels)]
    found: Tensor = attributor(*network.args, target=network.call, conditions=conditions, chunk=chunk).relevance
    return found


def main(arguments_: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if the maps of one call are others than those of many."""
    parser = arguments(__doc__, list(LAYERS), ())
    parser.add_argument("--channels", type=int, default=50, help="maps of one image (%(default)s)")
    parser.add_argument("--chunks", type=int, nargs="+", default=CHUNKS, help="maps that are made together")
    parser.add_argument("--rules", nargs="+", default=RULES, help="presets (%(default)s)")
    options = parser.parse_args(arguments_)
    torch.set_num_threads(options.threads)
    rows, differences = [], {}
    for model, preset in product(options.models, options.rules):
        network, layer = build(model, Sizes(tiny=options.tiny), options.device), LAYERS[model]
        attributor = fxlrp.compile(network.model, rules=rules(preset))
        base, label = f"{options.channels} calls", f"{model}, {preset}"
        shared = attributor, network, layer, options.channels
        calls: dict[str, Call] = {base: partial(explain_apart, *shared)}
        calls |= {f"one call, {n} at a time": partial(explain_together, *shared, n) for n in options.chunks}
        differences[label] = max(distance(call(), calls[base]()) for call in calls.values())
        rows += measure(label, KIND, calls, [base], options)
    finish(options, surroundings(options) | {"differences": differences, "rows": rows}, [shown(rows, KIND)])
    if options.out is not None:
        groups: dict[str, dict[str, Spread]] = {}
        for r in rows:
            groups.setdefault(r["model"], {})[r["method"]] = next(iter(r["ratios"].values()))
        bars(options.out.with_suffix(".svg"), "time / a call for each channel", groups)
    return int(any(d > 1e-6 for d in differences.values()))


if __name__ == "__main__":
    raise SystemExit(main())
