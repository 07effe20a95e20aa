"""Virtual environments of the peers, with the torch that is installed here."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

CACHE = Path.home() / ".cache" / "fxlrp" / "peers"
REQUIREMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "zennit": (("zennit==0.5.1", "transformers=={transformers}"),),
    "captum": (("captum==0.9.0", "transformers=={transformers}"),),
    # its efficient mode needs neither bitsandbytes nor open_clip; transformers 5 lacks what it imports
    "lxt": (("transformers==4.52.4", "zennit==0.5.1", "tabulate"), ("--no-deps", "lxt==2.1")),
    "dynamiclrp": (("transformers==4.52.4", "einops"),),
}


def public(package: str) -> str:
    """Installed version, without what follows a plus."""
    return importlib.metadata.version(package).partition("+")[0]


def setup(cache: Path, peers: Sequence[str]) -> None:
    """Make the environments that are not there, with this torch."""
    fixed = [f"{name}=={public(name)}" for name in ("torch", "torchvision")]
    for peer in peers:
        folder, done = cache / peer, cache / peer / "ready"
        wanted = [[part.format(transformers=public("transformers")) for part in step] for step in REQUIREMENTS[peer]]
        record = json.dumps([fixed, wanted])
        if done.exists() and done.read_text() == record:
            continue
        print(f"making {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        constraints = folder / "constraints.txt"
        constraints.write_text("\n".join(fixed) + "\n")
        install = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--constraint", constraints]
        for step in ([fixed[0]], [fixed[1]], *wanted):
            subprocess.run([*install, *step], check=True)
        done.write_text(record)
