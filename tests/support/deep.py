"""Models as deep as they were published, and narrow: as many nodes, few numbers.

They are of float32 like the checkpoints, since norms that compute in float32 convert what is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from zoo import GROUPED, SPECIAL, Sample, enliven, noise, tokens, torchvision, transformers

DEEP: dict[str, Callable[[], Sample]] = {}


def entry(function: Callable[[], Sample]) -> Callable[[], Sample]:
    """Add a model, seeded and in evaluation mode."""

    def build() -> Sample:
        torch.manual_seed(0)
        model, args, kwargs = function()
        return model.eval(), args, kwargs

    DEEP[function.__name__] = build
    return build


@entry
def resnet50() -> Sample:
    block = torchvision.models.resnet.Bottleneck
    model = torchvision.models.ResNet(block, [3, 4, 6, 3], width_per_group=8)
    return enliven(model), (noise(1, 3, 64, 64).float(),), {}


@entry
def llama() -> Sample:
    """Llama 3.2 1B."""
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "original_max_position_embeddings": 8192}
    factors = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    sizes: dict[str, Any] = GROUPED | {"num_hidden_layers": 16, "tie_word_embeddings": True}
    config = transformers.LlamaConfig(**sizes, rope_parameters=rope | factors)
    return enliven(transformers.LlamaForCausalLM(config)), (), tokens(1, "left")


@entry
def flan_t5() -> Sample:
    """Flan-T5 large."""
    config = transformers.T5Config(
        **SPECIAL,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=24,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        use_cache=False,
    )
    given = tokens(1, "right")
    return (
        enliven(transformers.T5ForConditionalGeneration(config)),
        (),
        given | {"decoder_input_ids": given["input_ids"]},
    )
