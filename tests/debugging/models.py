"""Small models of the usual shapes, trained for a few steps. `python models.py gpt` always prints the same."""

from __future__ import annotations

import sys
import threading
import time

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.c_attn(x).chunk(3, dim=-1)
        return self.c_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c_fc, self.act, self.c_proj = nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)

    def forward(self, x):
        return self.c_proj(self.act(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width)
        self.ln_2, self.mlp = nn.LayerNorm(width), Mlp(width)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    def __init__(self, width=8, layers=2, words=11):
        super().__init__()
        self.wte = nn.Embedding(words, width)
        self.h = nn.ModuleList(Block(width) for _ in range(layers))
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)

    def forward(self, tokens):
        x = self.wte(tokens)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def gpt(poisoned=False):
    """Three steps, the third with shorter sequences, then an evaluation."""
    model = Gpt()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(3):
        if poisoned and step == 2:
            with torch.no_grad():
                model.h[1].mlp.c_fc.weight[0, 0] = float("inf")
        tokens = torch.arange(2 * (6 if step == 2 else 8)).reshape(2, -1) % 11
        loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step} loss {loss.item():.4f}")
    with torch.no_grad():
        print("evaluated", tuple(model(torch.zeros(1, 4, dtype=torch.long)).shape))


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.bn1(self.conv1(x)) + x)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.layer1 = nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(Residual(4), Residual(4))
        self.pool, self.bn = nn.AdaptiveAvgPool2d(1), nn.BatchNorm1d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.bn(self.pool(self.layer1(self.conv1(x))).flatten(1)))


def resnet():
    """The last batch has a single image, at which a BatchNorm raises; the program goes on."""
    model = ResNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for size in (4, 4, 1):
        try:
            loss = model(torch.ones(size, 3, 6, 6)).square().mean()
        except ValueError as error:
            print("left out:", type(error).__name__)
            continue
        loss.backward()
        optimizer.step()
        print(f"loss {loss.item():.4f}")
    model.double().eval()
    print(model(torch.ones(2, 3, 6, 6, dtype=torch.float64)).dtype)


class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 2:
            time.sleep(2)
        return x


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.slow = nn.LSTM(4, 6, batch_first=True), Slow()
        self.hidden, self.out = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        outputs, (last, _) = self.lstm(x)
        outputs = checkpoint(self.hidden, self.slow(outputs), use_reentrant=False)
        return {"tags": self.out(outputs), "last": last}


def lstm():
    """A module that is slow in its second call, a checkpoint, a call on another thread."""
    model = Tagger()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        outputs = model(torch.ones(2, 5, 4))
        (outputs["tags"].square().mean() + outputs["last"].mean()).backward()
        optimizer.step()
    other = threading.Thread(target=lambda: print("other thread", tuple(model.out(torch.ones(1, 6)).shape)))
    other.start()
    other.join()
    print("done")


class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x, mask=None):
        return self.head(self.encoder(x, src_key_padding_mask=mask))


def transformer():
    """Three steps, the second with a mask."""
    model = Translator()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(3):
        mask = torch.zeros(2, 7, dtype=torch.bool) if step == 1 else None
        model(torch.ones(2, 7, 16), mask=mask).square().mean().backward()
        optimizer.step()
        print("step", step)
    raise SystemExit(3)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    name, *words = sys.argv[1:]
    {"gpt": gpt, "resnet": resnet, "lstm": lstm, "transformer": transformer}[name](*map(bool, words))
