"""Small models with the classes of the libraries they come from, seeded, in float64 and evaluation mode.

One function per architecture returns ``(model, args, kwargs)``. Widths are reduced so that the whole zoo
runs in a few minutes on two cores; every block type of the published model is there.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision_ops import import_torchvision

import_torchvision()

import torchvision  # noqa: E402
import transformers  # noqa: E402

Sample = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
ZOO: dict[str, Callable[[], Sample]] = {}


def entry(function: Callable[[], Sample]) -> Callable[[], Sample]:
    """Add an architecture to the zoo, seeded and in evaluation mode."""

    def build() -> Sample:
        torch.manual_seed(0)
        model, args, kwargs = function()
        return model.double().eval(), args, kwargs

    ZOO[function.__name__] = build
    return build


def image(size: int, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size, dtype=torch.float64)


def ids(length: int = 7, vocabulary: int = 90) -> Tensor:
    return torch.randint(3, vocabulary, (2, length))


def text(model: nn.Module, **inputs: Any) -> Sample:
    tokens = ids()
    return model, (), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), **inputs}


SMALL: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED: dict[str, Any] = SMALL | {"num_key_value_heads": 2, "head_dim": 8, "use_cache": False}


@entry
def vgg16() -> Sample:
    layers = [c if c == "M" else max(4, c // 16) for c in torchvision.models.vgg.cfgs["D"]]
    features = torchvision.models.vgg.make_layers(layers)
    model = torchvision.models.VGG(features, num_classes=10)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(nn.Linear(32, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 10))
    return model, (image(32),), {}


def warm_batch_norm(model: nn.Module) -> nn.Module:
    """Give batch norms statistics and weights that are not the identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model


@entry
def resnet50() -> Sample:
    block = torchvision.models.resnet.Bottleneck
    model = torchvision.models.ResNet(block, [3, 4, 6, 3], num_classes=10, width_per_group=8)
    return warm_batch_norm(model), (image(32),), {}


@entry
def vit_b_16() -> Sample:
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=4, hidden_dim=32, mlp_dim=48, num_classes=10
    )
    nn.init.normal_(model.heads.head.weight)  # torchvision starts it at zero
    nn.init.normal_(model.class_token)
    return model, (image(32),), {}


@entry
def efficientnet_v2_m() -> Sample:
    models = torchvision.models.efficientnet
    fused, inverted = models.FusedMBConvConfig, models.MBConvConfig
    stages = [
        fused(1, 3, 1, 8, 8, 2),
        fused(4, 3, 2, 8, 16, 2),
        inverted(4, 3, 2, 16, 24, 2),
        inverted(6, 3, 1, 24, 32, 2),
    ]
    model = torchvision.models.EfficientNet(stages, dropout=0.3, num_classes=10, last_channel=64)
    return warm_batch_norm(model), (image(32),), {}


@entry
def siglip2() -> Sample:
    small = {k: SMALL[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
    config = transformers.Siglip2Config(
        text_config=small | {"vocab_size": 100, "max_position_embeddings": 16, "projection_size": 32},
        vision_config=small | {"num_patches": 16, "patch_size": 4},
    )
    patches = torch.randn(2, 16, 48, dtype=torch.float64)
    shapes = torch.tensor([[4, 4], [4, 4]])
    mask = torch.ones(2, 16, dtype=torch.int64)
    model = transformers.Siglip2Model(config)
    tokens = ids()
    return (
        model,
        (),
        {
            "input_ids": tokens,
            "pixel_values": patches,
            "pixel_attention_mask": mask,
            "spatial_shapes": shapes,
            "attention_mask": torch.ones_like(tokens),
        },
    )


@entry
def wav2vec2() -> Sample:
    config = transformers.Wav2Vec2Config(
        **{k: v for k, v in SMALL.items() if k != "max_position_embeddings"},
        conv_dim=[16] * 3,
        conv_kernel=[10, 3, 3],
        conv_stride=[5, 2, 2],
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    return transformers.Wav2Vec2ForCTC(config), (torch.randn(2, 400, dtype=torch.float64),), {}


@entry
def whisper() -> Sample:
    config = transformers.WhisperConfig(
        vocab_size=100,
        num_mel_bins=8,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_source_positions=16,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        use_cache=False,
    )
    features = torch.randn(2, 8, 32, dtype=torch.float64)
    return (
        transformers.WhisperForConditionalGeneration(config),
        (),
        {"input_features": features, "decoder_input_ids": ids(5)},
    )


@entry
def gpt2() -> Sample:
    config = transformers.GPT2Config(
        vocab_size=100,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        use_cache=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    return text(transformers.GPT2LMHeadModel(config))


@entry
def roberta() -> Sample:
    return text(transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**SMALL, num_labels=3)))


@entry
def bert() -> Sample:
    return text(transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, num_labels=3)))


@entry
def llama() -> Sample:
    return text(transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED)))


@entry
def gemma3() -> Sample:
    config = transformers.Gemma3TextConfig(
        **GROUPED, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    )
    return text(transformers.Gemma3ForCausalLM(config))


@entry
def qwen3() -> Sample:
    return text(transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**GROUPED)))


@entry
def flan_t5() -> Sample:
    config = transformers.T5Config(
        vocab_size=100,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        use_cache=False,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return text(transformers.T5ForConditionalGeneration(config), decoder_input_ids=ids(5))


@entry
def pix2struct() -> Sample:
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48}
    config = transformers.Pix2StructConfig(
        text_config=sizes | {"vocab_size": 100, "use_cache": False},
        vision_config={
            "hidden_size": 32,
            "patch_embed_hidden_size": 48,
            "d_ff": 48,
            "d_kv": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "seq_len": 16,
        },
    )
    patches = torch.randn(2, 9, 50, dtype=torch.float64)
    patches[:, :, :2] = torch.stack(
        torch.meshgrid(torch.arange(1.0, 4), torch.arange(1.0, 4), indexing="ij"), -1
    ).reshape(9, 2)
    config.vision_config.patch_size = 4
    return (
        transformers.Pix2StructForConditionalGeneration(config),
        (),
        {
            "flattened_patches": patches,
            "decoder_input_ids": ids(5),
            "attention_mask": torch.ones(2, 9, dtype=torch.float64),
        },
    )


@entry
def mamba() -> Sample:
    config = transformers.MambaConfig(
        vocab_size=100,
        hidden_size=16,
        state_size=4,
        num_hidden_layers=2,
        expand=2,
        time_step_rank=4,
        use_cache=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.MambaForCausalLM(config), (), {"input_ids": ids(5)}


class Recurrent(nn.Module):
    """A recurrent reader of vectors with a linear classifier on its last state."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.reader = kind(6, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.reader(x)[0][:, -1])


@entry
def lstm() -> Sample:
    return Recurrent(nn.LSTM), (torch.randn(2, 5, 6, dtype=torch.float64),), {}


@entry
def gru() -> Sample:
    return Recurrent(nn.GRU), (torch.randn(2, 5, 6, dtype=torch.float64),), {}


@entry
def mixtral() -> Sample:
    config = transformers.MixtralConfig(
        **GROUPED, num_local_experts=4, num_experts_per_tok=2, experts_implementation="batched_mm"
    )
    return text(transformers.MixtralForCausalLM(config))
