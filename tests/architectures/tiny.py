"""Architectures of transformers, as small as they come, made from their configurations: no weights, no network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

VOCABULARY, BATCH, LENGTH = 60, 2, 12


def ids(length: int = LENGTH) -> torch.Tensor:
    return torch.randint(5, VOCABULARY, (BATCH, length))


def words() -> dict[str, Any]:
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[1, -3:] = 0
    return {"input_ids": ids(), "attention_mask": mask}


def pairs() -> dict[str, Any]:
    return {**words(), "decoder_input_ids": ids(7)}


def pixels(size: int = 32) -> Callable[[], dict[str, Any]]:
    return lambda: {"pixel_values": torch.randn(BATCH, 3, size, size)}


def pictures_and_words() -> dict[str, Any]:
    return {**words(), **pixels()()}


def sound() -> dict[str, Any]:
    return {"input_values": torch.randn(BATCH, 1600)}


def spectra() -> dict[str, Any]:
    return {"input_features": torch.randn(BATCH, 8, 40), "decoder_input_ids": ids(7)}


def words_on_a_page() -> dict[str, Any]:
    return {**words(), "bbox": torch.zeros(BATCH, LENGTH, 4, dtype=torch.int64)}


@dataclass(frozen=True)
class Tiny:
    """One architecture: the options of its configuration, and what it is given.

    uncounted: operations that have no formula, so that its FLOPs are a lower bound.
    """

    options: dict[str, Any]
    given: Callable[[], dict[str, Any]] = words
    uncounted: list[str] = field(default_factory=list)


TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 64,
}  # fmt: skip
GROUPED = {**TEXT, "num_attention_heads": 4, "num_key_value_heads": 2}
EXPERTS = {"num_experts_per_tok": 2}
SEQUENCES = {
    "vocab_size": VOCABULARY, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64,
}  # fmt: skip
PICTURE = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
SOUND = {
    **TEXT, "conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "mask_time_length": 2,
}  # fmt: skip

ARCHITECTURES: dict[str, Tiny] = {
    "bert": Tiny(TEXT),
    "roberta": Tiny(TEXT),
    "distilbert": Tiny({"vocab_size": VOCABULARY, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}),
    "albert": Tiny({**TEXT, "embedding_size": 8}),
    "electra": Tiny({**TEXT, "embedding_size": 8}),
    "deberta-v2": Tiny(
        {**TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
    ),
    "xlnet": Tiny({"vocab_size": VOCABULARY, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}),
    "fnet": Tiny({**TEXT, "tpu_short_seq_length": 16}, lambda: {"input_ids": ids()}, ["_fft_c2c"]),
    "gpt2": Tiny({"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}),
    "gpt_neo": Tiny(
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "intermediate_size": 32,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "max_position_embeddings": 64,
        }
    ),
    "gpt_neox": Tiny(TEXT),
    "opt": Tiny({**TEXT, "ffn_dim": 32, "word_embed_proj_dim": 16}),
    "llama": Tiny(GROUPED),
    "mistral": Tiny({**GROUPED, "sliding_window": 4}),
    "mixtral": Tiny({**GROUPED, **EXPERTS, "num_local_experts": 4}),
    "qwen2": Tiny(GROUPED),
    "qwen2_moe": Tiny(
        {
            **GROUPED,
            **EXPERTS,
            "num_experts": 4,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        }
    ),
    "gemma": Tiny({**GROUPED, "head_dim": 8}),
    "gemma2": Tiny({**GROUPED, "head_dim": 8, "sliding_window": 4}),
    "phi": Tiny(GROUPED),
    "phi3": Tiny({**GROUPED, "pad_token_id": 0}),
    "falcon": Tiny(TEXT),
    "bloom": Tiny({"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "mamba": Tiny({"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
    "t5": Tiny(
        {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
        pairs,
    ),
    "bart": Tiny(SEQUENCES, pairs),
    "mbart": Tiny(SEQUENCES, pairs),
    "pegasus": Tiny(SEQUENCES, pairs),
    "marian": Tiny({**SEQUENCES, "pad_token_id": 1, "decoder_start_token_id": 1}, pairs),
    "led": Tiny({**SEQUENCES, "attention_window": 4}, pairs),
    "longformer": Tiny({**TEXT, "attention_window": 4}),
    "big_bird": Tiny({**TEXT, "attention_type": "original_full"}),
    "layoutlm": Tiny(TEXT, words_on_a_page),
    "vit": Tiny(PICTURE, pixels()),
    "deit": Tiny(PICTURE, pixels()),
    "swin": Tiny(
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "window_size": 4,
        },
        pixels(),
    ),
    "convnext": Tiny({"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}, pixels()),
    "resnet": Tiny(
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}, pixels()
    ),
    "segformer": Tiny(
        {
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 2, 2],
            "decoder_hidden_size": 16,
        },
        pixels(64),
    ),
    "clip": Tiny({"text_config": TEXT, "vision_config": PICTURE, "projection_dim": 16}, pictures_and_words),
    "whisper": Tiny(
        {
            **SEQUENCES,
            "num_mel_bins": 8,
            "max_source_positions": 20,
            "max_target_positions": 20,
            "pad_token_id": 0,
        },
        spectra,
    ),
    "wav2vec2": Tiny(SOUND, sound),
    "hubert": Tiny(SOUND, sound),
}
