"""Tiny models of transformers: keyword arguments, several arguments, a cache and structured outputs in each call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

LAYERS = 4
WIDTH = 32
VOCABULARY = 256
LENGTH = 64


def models() -> dict[str, Callable[[], nn.Module]]:
    """By name what makes a model; none where transformers is not installed."""
    try:
        import transformers as t
    except ImportError:
        return {}
    t.logging.set_verbosity_error()
    sizes = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
    layered = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
    }
    gpt2 = t.GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=LENGTH, **sizes)
    llama = t.LlamaConfig(num_key_value_heads=4, **layered, **sizes)
    bert = t.BertConfig(vocab_size=VOCABULARY, **layered)
    return {
        "gpt2": lambda: t.GPT2LMHeadModel(gpt2),
        "llama": lambda: t.LlamaForCausalLM(llama),
        "bert": lambda: t.BertForMaskedLM(bert),
    }


def tokens() -> Tensor:
    """A batch of 2 x 16."""
    return torch.randint(0, VOCABULARY, (2, 16))


def eval_forward(model: nn.Module) -> Callable[[], object]:
    """A forward without gradients."""
    model.eval()
    batch = tokens()

    def forward() -> object:
        with torch.no_grad():
            return model(batch)

    return forward


def training_step(model: nn.Module) -> Callable[[], object]:
    """Forward with the model's own loss, backward and SGD."""
    model.train()
    batch = tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)

    def step() -> None:
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        optimizer.step()

    return step
