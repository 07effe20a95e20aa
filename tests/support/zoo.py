"""Small models with the classes of the libraries they come from, seeded, in float64 and evaluation mode.

``ZOO[name](batch)`` returns ``(model, args, kwargs)``. Widths and depths are reduced so that the whole zoo is captured
in seconds; every block type of the published model is there. `deep` has models of the published depth. No parameter is
left at zero or one, so that biases, norms and heads matter; in text models the first sample is padded.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision_ops import import_torchvision

import_torchvision()

import torchvision  # noqa: E402
import transformers  # noqa: E402

transformers.logging.set_verbosity_error()

Sample = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
Builder = Callable[..., Sample]
ZOO: dict[str, Builder] = {}


def entry(function: Callable[[int], Sample]) -> Builder:
    """Add an architecture to the zoo, seeded and in evaluation mode."""

    def build(batch: int = 2) -> Sample:
        torch.manual_seed(0)
        model, args, kwargs = function(batch)
        return model.double().eval(), args, kwargs

    ZOO[function.__name__] = build
    return build


def enliven(model: nn.Module) -> nn.Module:
    """Draw weights that keep activations near 1, and move vectors away from zero and one."""
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim < 2:
                p += 0.1 * torch.randn_like(p)
            elif p.std() < 0.1:
                p.normal_(std=p[0].numel() ** -0.5)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(1, 3)
    return model


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def ids(batch: int, length: int = 7) -> Tensor:
    return torch.randint(3, 100, (batch, length))


def tokens(batch: int, side: str) -> dict[str, Tensor]:
    """Token ids and their mask; the first sample has two padded tokens on one side."""
    found = ids(batch)
    padded = slice(0, 2) if side == "left" else slice(-2, None)
    found[0, padded] = 0
    return {"input_ids": found, "attention_mask": (found != 0).long()}


def targets(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """One entry per sample of an output: a class, or a token at one of the last two positions."""
    chosen = []
    for i in range(shape[0]):
        position = (shape[1] - 1 - i % 2,) if len(shape) == 3 else ()
        chosen.append((*position, (7 * i + 1) % shape[-1]))
    return chosen


BLOCK: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SPECIAL: dict[str, Any] = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL = BLOCK | SPECIAL | {"max_position_embeddings": 64}
GROUPED = SMALL | {"num_key_value_heads": 2, "head_dim": 8, "use_cache": False}


@entry
def vgg16(batch: int) -> Sample:
    layers = [c if c == "M" else max(4, c // 16) for c in torchvision.models.vgg.cfgs["D"]]
    model = torchvision.models.VGG(torchvision.models.vgg.make_layers(layers), num_classes=10)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(nn.Linear(32, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 10))
    return enliven(model), (noise(batch, 3, 32, 32),), {}


@entry
def resnet50(batch: int) -> Sample:
    block = torchvision.models.resnet.Bottleneck
    layers = [2, 2, 2, 2]  # one with a convolution beside it and one without
    model = torchvision.models.ResNet(block, layers, num_classes=10, width_per_group=8)
    return enliven(model), (noise(batch, 3, 32, 32),), {}


@entry
def vit_b_16(batch: int) -> Sample:
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=48, num_classes=10
    )
    return enliven(model), (noise(batch, 3, 32, 32),), {}


@entry
def efficientnet_v2_m(batch: int) -> Sample:
    models = torchvision.models.efficientnet
    stages = [
        models.FusedMBConvConfig(1, 3, 1, 8, 8, 2),
        models.FusedMBConvConfig(4, 3, 2, 8, 16, 2),
        models.MBConvConfig(4, 3, 2, 16, 24, 2),
        models.MBConvConfig(6, 3, 1, 24, 32, 2),
    ]
    model = torchvision.models.EfficientNet(stages, dropout=0.3, num_classes=10, last_channel=64)
    return enliven(model), (noise(batch, 3, 32, 32),), {}


class Matches(nn.Module):
    """How well each image fits its own text, so that samples are independent."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor, mask: Tensor, shapes: Tensor
    ) -> Tensor:
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values=pixel_values,
            pixel_attention_mask=mask,
            spatial_shapes=shapes,
        )
        return out.logits_per_image.diagonal().unsqueeze(1)


@entry
def siglip2(batch: int) -> Sample:
    config = transformers.Siglip2Config(
        text_config=BLOCK | SPECIAL | {"max_position_embeddings": 16, "projection_size": 32},
        vision_config=BLOCK | {"num_patches": 16, "patch_size": 4},
    )
    pixels, mask = noise(batch, 16, 48), torch.ones(batch, 16, dtype=torch.int64)
    mask[0, 12:] = 0
    shapes = torch.tensor([[4, 4]]).expand(batch, 2).clone()
    shapes[0, 0] = 3
    inputs = tokens(batch, "left") | {"pixel_values": pixels, "mask": mask, "shapes": shapes}
    return Matches(enliven(transformers.Siglip2Model(config))), (), inputs


@entry
def wav2vec2(batch: int) -> Sample:
    config = transformers.Wav2Vec2Config(
        **BLOCK,
        **SPECIAL,
        conv_dim=[16] * 3,
        conv_kernel=[10, 3, 3],
        conv_stride=[5, 2, 2],
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    return enliven(transformers.Wav2Vec2ForCTC(config)), (noise(batch, 400),), {}


@entry
def whisper(batch: int) -> Sample:
    config = transformers.WhisperConfig(
        **SPECIAL,
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
        decoder_start_token_id=1,
        use_cache=False,
    )
    inputs = {"input_features": noise(batch, 8, 32), "decoder_input_ids": ids(batch, 5)}
    return enliven(transformers.WhisperForConditionalGeneration(config)), (), inputs


@entry
def gpt2(batch: int) -> Sample:
    config = transformers.GPT2Config(**SPECIAL, n_embd=32, n_layer=2, n_head=4, n_positions=64, use_cache=False)
    return enliven(transformers.GPT2LMHeadModel(config)), (), tokens(batch, "left")


@entry
def roberta(batch: int) -> Sample:
    model = transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**SMALL, num_labels=3))
    return enliven(model), (), tokens(batch, "right")


@entry
def bert(batch: int) -> Sample:
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, num_labels=3))
    return enliven(model), (), tokens(batch, "right")


@entry
def llama(batch: int) -> Sample:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED))
    return enliven(model), (), tokens(batch, "left")


@entry
def gemma3(batch: int) -> Sample:
    layers = ["sliding_attention", "full_attention"]
    config = transformers.Gemma3TextConfig(**GROUPED, sliding_window=4, layer_types=layers)
    return enliven(transformers.Gemma3ForCausalLM(config)), (), tokens(batch, "left")


@entry
def qwen3(batch: int) -> Sample:
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**GROUPED))
    return enliven(model), (), tokens(batch, "left")


@entry
def flan_t5(batch: int) -> Sample:
    config = transformers.T5Config(
        **SPECIAL,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        use_cache=False,
        decoder_start_token_id=0,
    )
    inputs = tokens(batch, "right") | {"decoder_input_ids": ids(batch, 5)}
    return enliven(transformers.T5ForConditionalGeneration(config)), (), inputs


@entry
def pix2struct(batch: int) -> Sample:
    sizes = {"hidden_size": 32, "d_kv": 8, "d_ff": 48}
    config = transformers.Pix2StructConfig(
        text_config=SPECIAL | sizes | {"num_layers": 2, "num_heads": 4, "use_cache": False},
        vision_config=BLOCK | sizes | {"patch_embed_hidden_size": 48, "seq_len": 16},
    )
    places = torch.cartesian_prod(torch.arange(1.0, 4), torch.arange(1.0, 4)).double()
    patches = torch.cat([places.expand(batch, 9, 2), noise(batch, 9, 48)], -1)
    mask = torch.ones(batch, 9, dtype=torch.int64)
    patches[0, 7:], mask[0, 7:] = 0, 0
    config.vision_config.patch_size = 4
    inputs = {"flattened_patches": patches, "attention_mask": mask, "decoder_input_ids": ids(batch, 5)}
    return enliven(transformers.Pix2StructForConditionalGeneration(config)), (), inputs


@entry
def mamba(batch: int) -> Sample:
    config = transformers.MambaConfig(
        **SPECIAL, hidden_size=16, state_size=4, num_hidden_layers=2, expand=2, time_step_rank=4, use_cache=False
    )
    return enliven(transformers.MambaForCausalLM(config)), (), tokens(batch, "left")


class Recurrent(nn.Module):
    """A recurrent reader of vectors with a linear classifier on its last state."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.reader = kind(6, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.reader(x)[0][:, -1])


@entry
def lstm(batch: int) -> Sample:
    return enliven(Recurrent(nn.LSTM)), (noise(batch, 3, 6),), {}


@entry
def gru(batch: int) -> Sample:
    return enliven(Recurrent(nn.GRU)), (noise(batch, 3, 6),), {}


@entry
def mixtral(batch: int) -> Sample:
    config = transformers.MixtralConfig(
        **GROUPED, num_local_experts=4, num_experts_per_tok=2, experts_implementation="batched_mm"
    )
    return enliven(transformers.MixtralForCausalLM(config)), (), tokens(batch, "left")
