"""Models of sequences: does relevance agree with what the model loses when a token is blanked out (leave-one-out)?"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from readers import Reader, read_antibodies, read_noise, read_sentences, read_tweets
from rollout import roll_out
from tasks import Task
from torch import Tensor

import fxlrp
from fxlrp.evaluate.correlation import correlate_rows
from fxlrp.evaluate.leave_one_out import drop_each

from image_methods import captum  # isort: skip # it imports torchvision, which image_methods lets it

STEPS = 32
"""Of integrated gradients."""
ORDERS = 8
"""Orders of tokens that Shapley sampling goes through."""


def explain(reader: Reader, preset: str) -> Tensor:
    relevance: Tensor = fxlrp.compile(reader.model, rules=preset)(reader.ids, target=reader.target).relevance
    return relevance


@torch.no_grad()
def roll_out_attention(reader: Reader) -> Tensor:
    return (reader.read(reader.ids)[:, None] @ roll_out(reader.attentions(reader.ids)))[:, 0]


def integrate(reader: Reader) -> Tensor:
    """Integrate gradients at the embeddings, from those of blanks (Sundararajan et al. 2017)."""
    method = captum.attr.LayerIntegratedGradients(
        lambda ids, sample: reader.measure(ids, sample), reader.model.get_submodule(reader.embedding)
    )
    blanks = torch.full_like(reader.ids[:1], reader.blank)
    rows = [
        method.attribute(ids[None], blanks, additional_forward_args=(i,), n_steps=STEPS).sum(-1)
        for i, ids in enumerate(reader.ids)
    ]
    return torch.cat(rows).detach()


@torch.no_grad()
def sample_shapley(reader: Reader) -> Tensor:
    """Blank out tokens in some random orders (Castro et al. 2009)."""
    torch.manual_seed(0)
    rows = []
    for i, ids in enumerate(reader.ids):
        found = torch.zeros(len(ids))
        for _ in range(ORDERS):
            order = torch.randperm(len(ids))
            variants = torch.full_like(ids, reader.blank).repeat(len(ids) + 1, 1)
            for step, place in enumerate(order):
                variants[step + 1 :, place] = ids[place]
            found[order] += reader.measure(variants, i).diff()
        rows.append(found / ORDERS)
    return torch.stack(rows)


def at_random(reader: Reader) -> Tensor:
    return torch.rand(reader.ids.shape, generator=torch.Generator().manual_seed(0))


METHODS: dict[str, Callable[[Reader], Tensor]] = {
    **{name: partial(explain, preset=name) for name in fxlrp.presets()},
    "attention rollout": roll_out_attention,
    "integrated gradients": integrate,
    "Shapley sampling": sample_shapley,
    "random": at_random,
}


@torch.no_grad()
def blank_each(reader: Reader) -> Tensor:
    segments = torch.arange(reader.ids.shape[1])
    first = torch.zeros(1, dtype=torch.long)
    return torch.cat(
        [
            drop_each(
                lambda rows, i=i: reader.measure(rows, i)[:, None],
                ids[None],
                first,
                segments,
                lambda x: torch.full_like(x, reader.blank),
            )
            for i, ids in enumerate(reader.ids)
        ]
    )


def judge_by_blanks(load: Callable[[], Reader]) -> Task:
    """Correlate relevance of the tokens with what is lost without each (Pearson)."""
    reader = load()
    drops = cache(lambda: blank_each(reader).double())

    def score(relevance: Tensor) -> list[float]:
        found: list[float] = correlate_rows(*(x[:, reader.start :] for x in (relevance.double(), drops()))).tolist()
        return found

    methods = {name: partial(method, reader) for name, method in METHODS.items()}
    return Task("correlation with leave-one-out", score, methods)


TASKS: dict[str, Callable[[], Task]] = {
    "smollm2_tokens": partial(judge_by_blanks, partial(read_sentences, "smollm2")),
    "gemma_tokens": partial(judge_by_blanks, partial(read_sentences, "gemma")),
    "minilm_tweets": partial(judge_by_blanks, read_tweets),
    "antiberty_species": partial(judge_by_blanks, read_antibodies),
    "smoke_tokens": partial(judge_by_blanks, read_noise),
}
