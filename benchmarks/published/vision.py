"""Images, video, and images with text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
import transformers

from published.record import (
    BERT_LARGE,
    Sample,
    from_timm,
    from_torchvision,
    hugging_face,
    ids,
    pixels,
    published,
    text,
)


@published("torchvision/vgg16", "convolutional", "VGG16")
def vgg16() -> Sample:
    return from_torchvision("vgg16")


@published("torchvision/resnet50", "convolutional", "ResNet-50")
def resnet50() -> Sample:
    return from_torchvision("resnet50")


@published("torchvision/vit_b_16", "vision transformer", "ViT-b-16")
def vit_b_16() -> Sample:
    return from_torchvision("vit_b_16")


@published("torchvision/efficientnet_v2_m", "convolutional", "EfficientNetv2-medium")
def efficientnet_v2_m() -> Sample:
    return from_torchvision("efficientnet_v2_m", 480)


SO400M: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
}


@published("google/siglip2-so400m-patch14-384", "vision-language", "SigLIP-2-So400m-base14-384")
def siglip2() -> Sample:
    inputs = text(64) | {"pixel_values": pixels(384)}
    return hugging_face(
        "SiglipModel",
        inputs,
        text_config=SO400M | {"vocab_size": 256000, "max_position_embeddings": 64, "projection_size": 1152},
        vision_config=SO400M | {"image_size": 384, "patch_size": 14},
    )


@published("google/deplot", "vision-language", "DePlot")
def deplot() -> Sample:
    inputs = {
        "flattened_patches": torch.zeros(1, 2048, 770),
        "attention_mask": ids(2048),
        "decoder_input_ids": ids(),
    }
    return hugging_face("Pix2StructForConditionalGeneration", inputs, text_config={"use_cache": False})


@published("google/siglip2-so400m-patch16-naflex", "vision-language")
def siglip2_naflex() -> Sample:
    model, _, inputs = hugging_face(
        "Siglip2Model",
        text(64)
        | {
            "pixel_values": torch.zeros(1, 256, 768),
            "pixel_attention_mask": ids(256),
            "spatial_shapes": torch.full((1, 2), 16),
        },
        text_config=SO400M | {"vocab_size": 256000, "max_position_embeddings": 64, "projection_size": 1152},
        vision_config=SO400M | {"num_patches": 256, "patch_size": 16},
    )
    return model, (), inputs


@published("openai/clip-vit-base-patch32", "vision-language")
def clip() -> Sample:
    return hugging_face("CLIPModel", text() | {"pixel_values": pixels(224)})


@published("Salesforce/blip-vqa-base", "vision-language")
def blip() -> Sample:
    return hugging_face("BlipForImageTextRetrieval", text() | {"pixel_values": pixels(384)})


@published("facebook/dinov2-base", "vision transformer")
def dinov2() -> Sample:
    return hugging_face("Dinov2ForImageClassification", {"pixel_values": pixels(224)}, image_size=518, patch_size=14)


@published("microsoft/beit-base-patch16-224", "vision transformer")
def beit() -> Sample:
    return hugging_face("BeitForImageClassification", {"pixel_values": pixels(224)}, use_relative_position_bias=True)


@published("facebook/detr-resnet-50", "detection")
def detr() -> Sample:
    resnet = transformers.ResNetConfig(out_features=["stage4"])
    inputs = {"pixel_values": pixels(512), "pixel_mask": torch.ones(1, 512, 512, dtype=torch.int64)}
    return hugging_face("DetrForObjectDetection", inputs, backbone_config=resnet)


@published("hustvl/yolos-tiny", "detection")
def yolos() -> Sample:
    sizes = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 3, "image_size": [512, 512]}
    return hugging_face("YolosForObjectDetection", {"pixel_values": pixels(512)}, **sizes)


@published("torchvision/resnet50 with a feature pyramid", "detection")
def feature_pyramid() -> Sample:
    detection = torchvision.models.detection
    return detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet50", weights=None), (pixels(512),), {}


@published("nvidia/segformer-b0-finetuned-ade-512-512", "segmentation")
def segformer() -> Sample:
    return hugging_face("SegformerForSemanticSegmentation", {"pixel_values": pixels(512)}, num_labels=150)


@published("Intel/dpt-large", "segmentation")
def dpt() -> Sample:
    sizes = {"backbone_out_indices": [5, 11, 17, 23], "neck_hidden_sizes": [256, 512, 1024, 1024]}
    return hugging_face("DPTForDepthEstimation", {"pixel_values": pixels(384)}, **BERT_LARGE, **sizes)


@published("MCG-NJU/videomae-base", "video")
def videomae() -> Sample:
    return hugging_face("VideoMAEForVideoClassification", {"pixel_values": torch.zeros(1, 16, 3, 224, 224)})


TORCHVISION = {
    "mobilenet_v3_large": "convolutional",
    "densenet121": "convolutional",
    "inception_v3": "convolutional",
    "googlenet": "convolutional",
    "shufflenet_v2_x1_0": "convolutional",
    "mnasnet1_0": "convolutional",
    "convnext_tiny": "convolutional",
    "swin_t": "vision transformer",
    "swin_v2_t": "vision transformer",
    "maxvit_t": "vision transformer",
}
TIMM = {
    "mixer_b16_224": "mixer",
    "gmlp_s16_224": "mixer",
    "resmlp_12_224": "mixer",
    "nfnet_f0": "convolutional",
    "convnextv2_tiny": "convolutional",
    "resnest50d": "convolutional",
    "res2net50_26w_4s": "convolutional",
    "hrnet_w18": "convolutional",
    "dla34": "convolutional",
    "coatnet_0_224": "vision transformer",
    "efficientformer_l1": "vision transformer",
    "levit_128": "vision transformer",
    "xcit_nano_12_p8_224": "vision transformer",
    "cait_xxs24_224": "vision transformer",
    "eva02_tiny_patch14_224": "vision transformer",
    "poolformer_s12": "vision transformer",
    "mobilevit_s": "vision transformer",
    "fastvit_t8": "vision transformer",
    "volo_d1_224": "vision transformer",
    "focalnet_tiny_srf": "convolutional",
}


def register_named(names: dict[str, str], library: str, build: Callable[..., Sample], **sizes: int) -> None:
    """Register models that their library builds by name."""
    for name, family in names.items():
        options = (sizes[name],) if name in sizes else ()
        published(f"{library}/{name}", family)(lambda name=name, options=options: build(name, *options))


register_named(TORCHVISION, "torchvision", from_torchvision, inception_v3=299)
register_named(TIMM, "timm", from_timm, nfnet_f0=256, mobilevit_s=256, fastvit_t8=256)


@published("torchvision/regnet_y_8gf", "convolutional")
def regnet() -> Sample:
    with torch.device("cpu"):  # its widths are computed with tensors
        model, _, _ = from_torchvision("regnet_y_8gf")
    return model, (pixels(224),), {}


@published("torchvision/segmentation.fcn_resnet50", "segmentation")
def fcn() -> Sample:
    return from_torchvision("segmentation.fcn_resnet50", 512, weights_backbone=None)


@published("torchvision/segmentation.deeplabv3_resnet50", "segmentation")
def deeplab() -> Sample:
    return from_torchvision("segmentation.deeplabv3_resnet50", 512, weights_backbone=None)


@published("torchvision/r3d_18", "video")
def r3d() -> Sample:
    return torchvision.models.video.r3d_18(weights=None), (torch.zeros(1, 3, 16, 112, 112),), {}
