"""Good artefacts, loaded again: ``python benchmarks/reloaded.py --out benchmarks/results/reloaded.json``.

Every model of tests/support/zoo.py is saved under every preset as ``.pt2``, and under the default one as ``.onnx``.
What `fxlrp.load` makes of a ``.pt2`` file must give the same results as the module that torch.export.load makes of it,
to the last bit; an ``.onnx`` file must load and run, as saving has compared it with the program. The exit status is 1
if one does not. With ``--out`` a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from torch import Tensor  # noqa: E402
from zoo import ZOO  # noqa: E402

import fxlrp  # noqa: E402
from fxlrp._torch import tree_map_only  # noqa: E402
from fxlrp.rules import PRESETS  # noqa: E402

DEFAULT = "attnlrp"
CASES = [
    *((name, preset, ".pt2") for preset in PRESETS for name in ZOO),
    *((name, DEFAULT, ".onnx") for name in ZOO),
]


def reload(case: tuple[str, str, str]) -> str:
    """What is wrong with one artefact; nothing if it is right, or the reason why it could not be saved."""
    name, preset, ending = case
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, args, kwargs = ZOO[name](2)
    if ending == ".onnx":
        model = model.float()
        args, kwargs = tree_map_only(Tensor, lambda t: t.float() if t.is_floating_point() else t, (args, kwargs))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{ending}"
        try:
            fxlrp.compile(model, args, kwargs, rules=preset).save(path, *args, **kwargs)
        except fxlrp.FxlrpError as error:
            return f"not saved: {str(error)[:200]}"
        try:
            artifact = fxlrp.load(path)
            given, chosen = artifact.prepare(args, kwargs, None)
            found = artifact.run({**given, **chosen})
        except Exception as error:
            return f"wrong: {type(error).__name__}: {str(error)[:200]}"
        if ending == ".pt2":
            with torch.no_grad():
                expected = torch.export.load(path).module()(*given.values(), *chosen.values())
            different = [key for key, one in found.items() if not same(one, expected[key])]
            return f"wrong: other results for {', '.join(different)}" if different else ""
    return ""


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two results are the same to the last bit."""
    return one.dtype == other.dtype and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=len(CASES), help="so many artefacts; all by default")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="keep account in this JSON file, and go on from it")
    options = parser.parse_args()
    account: dict[str, Any] = {}
    if options.out is not None and options.out.exists():
        account = json.loads(options.out.read_text())
    left = [case for case in CASES[: options.most] if " ".join(case) not in account]
    console = Console(stderr=True)
    with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=20) as pool:
        judged = zip(left, pool.imap(reload, left), strict=True)
        for case, what in track(judged, "loading", len(left), console=console):
            account[" ".join(case)] = what
            if what:
                print(*case, what, flush=True)
            if options.out is not None:
                options.out.write_text(json.dumps(account, indent=1) + "\n")
    wrong = sum(what.startswith("wrong") for what in account.values())
    right = sum(not what for what in account.values())
    print(f"{len(account)} artefacts, {right} right, {wrong} wrong, {len(account) - right - wrong} not saved")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
