"""Language models."""

from __future__ import annotations

from typing import Any

from published.record import BERT_LARGE, Sample, hugging_face, ids, language, published, text


@published("openai-community/gpt2", "decoder", "GPT-2")
def gpt2() -> Sample:
    return language("GPT2LMHeadModel")


@published("FacebookAI/roberta-large", "encoder", "RoBERTa-large")
def roberta() -> Sample:
    sizes = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    return hugging_face("RobertaForSequenceClassification", text(), **BERT_LARGE, **sizes)


@published("meta-llama/Llama-3.2-1B", "decoder", "Llama3.2-1B")
def llama() -> Sample:
    return language(
        "LlamaForCausalLM",
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )


@published("google/gemma-3-270m-it", "decoder", "Gemma-3-270m-it")
def gemma3() -> Sample:
    return language(
        "Gemma3ForCausalLM",
        vocab_size=262144,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        max_position_embeddings=32768,
        sliding_window=512,
    )


@published("Qwen/Qwen3-0.6B", "decoder", "Qwen3-0.6B")
def qwen3() -> Sample:
    return language(
        "Qwen3ForCausalLM",
        vocab_size=151936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
    )


FLAN_T5_LARGE: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 1024,
    "d_kv": 64,
    "d_ff": 2816,
    "num_layers": 24,
    "num_decoder_layers": 24,
    "num_heads": 16,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}


@published("google/flan-t5-large", "encoder-decoder", "Flan-T5-large")
def flan_t5() -> Sample:
    inputs = text() | {"decoder_input_ids": ids()}
    return hugging_face("T5ForConditionalGeneration", inputs, use_cache=False, **FLAN_T5_LARGE)


@published("state-spaces/mamba-130m-hf", "state space", "Mamba-130m")
def mamba() -> Sample:
    return language("MambaForCausalLM", num_hidden_layers=24)


@published("mistralai/Mixtral-8x7B-v0.1", "mixture of experts")
def mixtral() -> Sample:
    return language(
        "MixtralForCausalLM",
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=32768,
        experts_implementation="batched_mm",
    )


@published("Qwen/Qwen3-30B-A3B", "mixture of experts")
def qwen3_moe() -> Sample:
    return language(
        "Qwen3MoeForCausalLM",
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=6144,
        moe_intermediate_size=768,
        num_hidden_layers=48,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        norm_topk_prob=True,
        experts_implementation="batched_mm",
    )


@published("deepseek-ai/DeepSeek-V3", "mixture of experts")
def deepseek_v3() -> Sample:
    return language("DeepseekV3ForCausalLM", experts_implementation="batched_mm")


@published("openai/gpt-oss-20b", "mixture of experts")
def gpt_oss() -> Sample:
    return language(
        "GptOssForCausalLM", num_hidden_layers=24, num_local_experts=32, experts_implementation="batched_mm"
    )


@published("AntonV/mamba2-130m-hf", "state space")
def mamba2() -> Sample:
    return language(
        "Mamba2ForCausalLM",
        vocab_size=50288,
        hidden_size=768,
        num_hidden_layers=24,
        num_heads=24,
        n_groups=1,
        tie_word_embeddings=True,
    )


@published("tiiuae/falcon-mamba-7b", "state space")
def falcon_mamba() -> Sample:
    return language("FalconMambaForCausalLM", 8, vocab_size=65024, hidden_size=4096, num_hidden_layers=64)


@published("ai21labs/Jamba-v0.1", "state space")
def jamba() -> Sample:
    return language("JambaForCausalLM", 8, use_mamba_kernels=False, experts_implementation="batched_mm")


@published("RWKV/rwkv-4-169m-pile", "linear attention")
def rwkv() -> Sample:
    return language("RwkvForCausalLM", 8, vocab_size=50277, hidden_size=768, num_hidden_layers=12)


@published("Qwen/Qwen3-Next-80B-A3B", "linear attention")
def qwen3_next() -> Sample:
    return language("Qwen3NextForCausalLM", 8, experts_implementation="batched_mm")


@published("NX-AI/xLSTM-7b", "linear attention")
def xlstm() -> Sample:
    return language("xLSTMForCausalLM", 8)


@published("google/recurrentgemma-2b", "linear attention")
def recurrent_gemma() -> Sample:
    return language("RecurrentGemmaForCausalLM")


@published("google/gemma-2-2b", "decoder")
def gemma2() -> Sample:
    return language(
        "Gemma2ForCausalLM",
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
    )


@published("bigscience/bloom-560m", "decoder")
def bloom() -> Sample:
    return language("BloomForCausalLM", vocab_size=250880, hidden_size=1024, n_layer=24, n_head=16)


@published("facebook/opt-125m", "decoder")
def opt() -> Sample:
    return language("OPTForCausalLM")


@published("EleutherAI/pythia-160m", "decoder")
def pythia() -> Sample:
    return language(
        "GPTNeoXForCausalLM",
        vocab_size=50304,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
    )


@published("google-bert/bert-base-uncased", "encoder")
def bert() -> Sample:
    return hugging_face("BertForSequenceClassification", text())


@published("microsoft/deberta-v3-base", "encoder")
def deberta() -> Sample:
    return hugging_face(
        "DebertaV2ForSequenceClassification",
        text(),
        vocab_size=128100,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        max_relative_positions=-1,
    )


@published("google/electra-base-discriminator", "encoder")
def electra() -> Sample:
    sizes = {"hidden_size": 768, "embedding_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    return hugging_face("ElectraForPreTraining", text(), **sizes)


@published("answerdotai/ModernBERT-base", "encoder")
def modernbert() -> Sample:
    return hugging_face("ModernBertForSequenceClassification", text())


@published("albert/albert-base-v2", "encoder")
def albert() -> Sample:
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    return hugging_face("AlbertForSequenceClassification", text(), **sizes)


@published("google/fnet-base", "encoder")
def fnet() -> Sample:
    return hugging_face("FNetForSequenceClassification", {"input_ids": ids()})


@published("xlnet/xlnet-base-cased", "encoder")
def xlnet() -> Sample:
    return hugging_face(
        "XLNetForSequenceClassification", text(), d_model=768, n_layer=12, n_head=12, d_inner=3072, use_mems_eval=False
    )


@published("facebook/esm2_t6_8M_UR50D", "encoder")
def esm() -> Sample:
    sizes = {"vocab_size": 33, "hidden_size": 320, "num_hidden_layers": 6, "num_attention_heads": 20}
    sizes |= {"intermediate_size": 1280, "mask_token_id": 32, "pad_token_id": 1, "token_dropout": True}
    return hugging_face("EsmForSequenceClassification", text(), position_embedding_type="rotary", **sizes)


@published("facebook/bart-large", "encoder-decoder")
def bart() -> Sample:
    inputs = text() | {"decoder_input_ids": ids()}
    return hugging_face("BartForConditionalGeneration", inputs, use_cache=False)


@published("google-t5/t5-base encoder", "encoder")
def t5_encoder() -> Sample:
    return hugging_face("T5EncoderModel", text(), d_model=768, d_ff=3072, num_layers=12, num_heads=12)


@published("deepmind/language-perceiver", "perceiver")
def perceiver() -> Sample:
    return hugging_face("PerceiverForMaskedLM", {"inputs": ids(2048), "attention_mask": ids(2048)})
