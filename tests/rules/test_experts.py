"""Mixtures of experts as transformers runs them by default: a grouped product, which is one linear op per expert."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision_ops import import_torchvision

import fxlrp
from fxlrp.capture.decompositions import FEW_EXPERTS, grouped_mm, make_decompositions

import_torchvision()

import transformers  # noqa: E402

pytestmark = pytest.mark.slow

SIZES = {
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
ROUTED: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 12}
MODELS: dict[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": 4, "num_hidden_layers": 2},
    "Qwen3Moe": {**ROUTED, "head_dim": 8, "num_experts": FEW_EXPERTS + 4},
    "DeepseekV3": {
        **ROUTED, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0, "q_lora_rank": 8,
        "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "n_shared_experts": 1,
    },
    "GptOss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "Jamba": {
        "num_experts": 4, "expert_layer_period": 1, "expert_layer_offset": 0, "attn_layer_period": 2,
        "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False,
    },
    "Qwen3Next": {
        **ROUTED, "head_dim": 8, "num_experts": 4, "shared_expert_intermediate_size": 12,
        "layer_types": ["full_attention"],
    },
}  # fmt: skip


class Logits(nn.Module):
    """A causal model of vectors, so that relevance is per feature; of one token's logits."""

    def __init__(self, name: str, experts: str | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**SIZES | MODELS[name])
        self.model = getattr(transformers, f"{name}ForCausalLM")(config)
        if experts is not None:
            self.model.set_experts_implementation(experts)
        for p in self.model.parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs_embeds=x, use_cache=False).logits
        return logits[:, -1]


X = torch.randn(1, 4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_grouped_experts_are_those_in_a_batch(name: str) -> None:
    grouped, batched = (Logits(name, kind).double().eval() for kind in (None, "batched_mm"))
    assert grouped.model.config._experts_implementation == "grouped_mm"  # the default
    # torch's own grouped product knows no double precision, so that the model itself cannot be run beside its program
    found = fxlrp.compile(grouped, verify="never")(X, target=5)
    expected = fxlrp.compile(batched)(X, target=5)
    close(found.output, expected.output)
    close(found.relevance, expected.relevance)
    x = X.clone().requires_grad_()
    y = batched(x)
    (g,) = torch.autograd.grad(y[:, 5].sum(), x)
    close(found.output, y.detach())
    close(fxlrp.compile(grouped, rules="gradient", verify="never")(X, target=5).relevance, X * g)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_output_is_that_of_torch(dtype: torch.dtype) -> None:
    """In bfloat16 export leaves torch's own op in the graph, in other types that of transformers."""
    own = Logits("Mixtral").to(dtype).eval()
    result = fxlrp.compile(own)(X.to(dtype), target=5)
    tolerance = 1e-5 if dtype is torch.float32 else 0.1
    torch.testing.assert_close(result.output, own(X.to(dtype)).detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("experts", [3, FEW_EXPERTS, FEW_EXPERTS + 3])
@pytest.mark.parametrize("left", [0, 2], ids=["all", "some beyond the last"])
def test_grouped_product(experts: int, left: int) -> None:
    """Against a loop over the groups, of which some are empty; its gradients too."""
    torch.manual_seed(0)
    sizes = torch.randint(0, 3, (experts,))
    x = torch.randn(int(sizes.sum()) + left, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(experts, 5, 4, dtype=torch.float64, requires_grad=True)
    offs = sizes.cumsum(0).int()
    groups = [group @ w for group, w in zip(x.split([*sizes.tolist(), left]), weight, strict=False)]
    expected = torch.cat([*groups, torch.zeros(left, 4, dtype=torch.float64)])
    close(grouped_mm(x, weight, offs), expected)
    seed = torch.randn_like(expected)
    for a, b in zip(
        *(torch.autograd.grad(y, (x, weight), seed) for y in (grouped_mm(x, weight, offs), expected)), strict=True
    ):
        close(a, b)


def test_a_model_that_was_loaded_later_is_taken_apart_too() -> None:
    make_decompositions()
    importlib.import_module("transformers.integrations.moe")
    assert torch.ops.transformers.grouped_mm_fallback.default in make_decompositions()
    assert torch.ops.aten._grouped_mm.default in make_decompositions()
