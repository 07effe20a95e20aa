"""Recurrent networks and a state space that learned to count: is each token given what it counts for?

Tokens are values, marked or not, or say nothing. The answer is the sum of the marked values, or the last of them, so
that what every token contributes is known as far as the network is right; one that is not is left out. Its way there
may differ all the same: a network may well add something up and take it away again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from known_signals import learn
from readers import Reader
from tasks import Task
from texts import at_random, blank_each, explain, integrate, sample_shapley
from torch import Tensor, nn

from fxlrp.errors import FxlrpError
from fxlrp.evaluate.correlation import correlate_rows
from fxlrp.evaluate.localisation import measure_mass
from fxlrp.optional import import_transformers

LENGTH, LEARNED, TESTED, EXPLAINED, WIDTH = 12, 4_000, 500, 32, 24
MARKED = 0.3
"""Part of the tokens that are marked, beside one that is so always."""
VALUES = torch.tensor([-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0])
NOTHING = 4
"""The token of 0 that is not marked: it says nothing, and stands for none."""
LEAST = 0.98
"""Part of the variance of answers that a network explains at least."""


def draw_tokens(count: int, seed: int, kind: str) -> tuple[Tensor, Tensor]:
    """Draw sequences, ``(count, LENGTH)``, and what each of their tokens contributes; no marked value is 0."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(len(VALUES), (count, LENGTH), generator=generator)
    marks = torch.rand(count, LENGTH, generator=generator) < MARKED
    marks[torch.arange(count), torch.randint(LENGTH, (count,), generator=generator)] = True
    values[marks & (values == NOTHING)] += 1
    since = marks.flip(1).cumsum(1).flip(1)  # how many marks there are from here on
    counting = marks if kind == "sum" else marks & (since == 1)
    return values + len(VALUES) * marks, VALUES[values] * counting


class Counter(nn.Module):
    """Embeddings of tokens, what reads them, and a linear head on its last state."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(2 * len(VALUES), WIDTH)
        self.reader = READERS[kind]()
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, ids: Tensor) -> Tensor:
        answer: Tensor = self.head(self.reader(self.embed(ids))[:, -1])
        return answer


class States(nn.Module):
    """States of a recurrent network of one layer."""

    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = layer(WIDTH, WIDTH, batch_first=True)

    def forward(self, vectors: Tensor) -> Tensor:
        states: Tensor = self.layer(vectors)[0]
        return states


class Mamba(nn.Module):
    """A selective state space of two layers, without embeddings of its own."""

    def __init__(self) -> None:
        super().__init__()
        with import_transformers("hf") as library:
            sizes = {"hidden_size": WIDTH, "state_size": 8, "num_hidden_layers": 2, "time_step_rank": 4}
            self.body = library.MambaModel(library.MambaConfig(vocab_size=1, use_cache=False, **sizes))

    def forward(self, vectors: Tensor) -> Tensor:
        states: Tensor = self.body(inputs_embeds=vectors).last_hidden_state
        return states


READERS: dict[str, Callable[[], nn.Module]] = {
    "lstm": partial(States, nn.LSTM),
    "gru": partial(States, nn.GRU),
    "mamba": Mamba,
}
LEARNING = {"lstm": (20, 0.01), "gru": (20, 0.01), "mamba": (10, 0.003)}
"""Epochs, and rate of learning."""
PRESETS = (
    *("auto", "attnlrp", "cp_lrp", "epsilon", "gradient", "relp", "reslrp", "mamba_lrp", "arras_lstm"),
    *("arras_lstm_shared", "libragrad", "dynamiclrp"),
)
"""Those for sequences; others are for images and graphs, or equal one of these here."""
METHODS: dict[str, Callable[[Reader], Tensor]] = {
    **{name: partial(explain, preset=name) for name in PRESETS},
    "integrated gradients": integrate,
    "leave-one-out": blank_each,
    "Shapley sampling": sample_shapley,
    "random": at_random,
}


def read_counts(network: str, kind: str) -> Task:
    """Judge 32 sequences by the mass on tokens that count, and by the correlation with what they count for."""
    ids, counts = draw_tokens(LEARNED, 0, kind)
    tests, truth = draw_tokens(TESTED, 1, kind)
    epochs, rate = LEARNING[network]
    answers = counts.sum(1, keepdim=True)
    model = learn(partial(Counter, network), ids, answers, nn.functional.mse_loss, epochs, rate)
    model.requires_grad_(False)
    wrong = (model(tests)[:, 0] - truth.sum(1)).var() / truth.sum(1).var()
    if wrong > 1 - LEAST:
        raise FxlrpError(f"{network} did not learn the {kind}: it explains {1 - wrong:.1%} of the variance of answers")
    chosen, given = tests[:EXPLAINED], truth[:EXPLAINED]

    def mass(relevance: Tensor) -> list[float]:
        return measure_mass(relevance.abs(), given != 0).tolist()

    def correlation(relevance: Tensor) -> list[float]:
        return correlate_rows(relevance.double(), given.double()).tolist()

    reader = Reader(
        model,
        chosen,
        target=[0] * EXPLAINED,
        measure=lambda x, sample: model(x)[:, 0],
        blank=NOTHING,
        embedding="embed",
        attentions=lambda x: (),
        read=torch.zeros_like,
    )
    methods = {name: partial(method, reader) for name, method in METHODS.items()}
    return Task("relevance mass in tokens that count", mass, methods, {"correlation": correlation})


TASKS = {f"{network}_{kind}": partial(read_counts, network, kind) for network in READERS for kind in ("sum", "last")}
