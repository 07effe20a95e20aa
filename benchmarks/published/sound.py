"""Speech, sound and time series."""

from __future__ import annotations

from typing import Any

import torch

from published.record import Sample, hugging_face, ids, published

XLS_R: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}


@published("facebook/wav2vec2-xls-r-300m", "speech", "Wav2Vec2-xls-r-300m")
def wav2vec2() -> Sample:
    return hugging_face("Wav2Vec2ForCTC", {"input_values": torch.zeros(1, 16000)}, **XLS_R)


@published("openai/whisper-small", "speech", "whisper-small")
def whisper() -> Sample:
    return hugging_face(
        "WhisperForConditionalGeneration",
        {"input_features": torch.zeros(1, 80, 3000), "decoder_input_ids": ids()},
        vocab_size=51865,
        d_model=768,
        encoder_layers=12,
        decoder_layers=12,
        encoder_attention_heads=12,
        decoder_attention_heads=12,
        encoder_ffn_dim=3072,
        decoder_ffn_dim=3072,
        use_cache=False,
    )


@published("facebook/hubert-base-ls960", "speech")
def hubert() -> Sample:
    return hugging_face("HubertForCTC", {"input_values": torch.zeros(1, 16000)})


@published("UsefulSensors/moonshine-tiny", "speech")
def moonshine() -> Sample:
    inputs = {"input_values": torch.zeros(1, 16000), "decoder_input_ids": ids()}
    return hugging_face("MoonshineForConditionalGeneration", inputs, use_cache=False)


@published("facebook/wav2vec2-conformer-rope-large-960h-ft", "speech")
def conformer() -> Sample:
    sizes = {"position_embeddings_type": "rotary", "vocab_size": 32, "hidden_act": "swish"}
    return hugging_face("Wav2Vec2ConformerForCTC", {"input_values": torch.zeros(1, 16000)}, **XLS_R, **sizes)


@published("MIT/ast-finetuned-audioset-10-10-0.4593", "speech")
def spectrogram_transformer() -> Sample:
    return hugging_face("ASTForAudioClassification", {"input_values": torch.zeros(1, 1024, 128)}, num_labels=527)


@published("descript/dac_16khz", "speech")
def dac() -> Sample:
    sizes = {"upsampling_ratios": [8, 5, 4, 2], "n_codebooks": 12, "sampling_rate": 16000}
    return hugging_face(
        "DacModel", {"input_values": torch.zeros(1, 1, 16000)}, downsampling_ratios=[2, 4, 5, 8], **sizes
    )


@published("ibm-granite/granite-timeseries-patchtst", "time series")
def patchtst() -> Sample:
    sizes = {"num_input_channels": 7, "context_length": 512, "prediction_length": 96, "patch_length": 12}
    sizes |= {"patch_stride": 12, "d_model": 128, "num_attention_heads": 16, "ffn_dim": 512}
    return hugging_face("PatchTSTForPrediction", {"past_values": torch.zeros(1, 512, 7)}, **sizes)
