"""A model whose activations grow until float16 ends: `modtrace run --nan examples/debugging/half_precision.py`."""

from __future__ import annotations

import torch
from torch import nn


class Grow(nn.Module):
    """Its scale is learned, and learns too fast."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.half() * self.scale.half() ** 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.grow, self.head = nn.Linear(16, 32), Grow(), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.grow(self.embed(x))).float())


def main() -> None:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(8):
        loss = model(torch.randn(64, 16)).logsumexp(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.grow.scale.mul_(2.5)
    print(f"loss {loss.item():.3g} after 8 steps")


if __name__ == "__main__":
    main()
