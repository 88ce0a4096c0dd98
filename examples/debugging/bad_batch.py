"""One row of one batch is NaN: `modtrace run --nan examples/debugging/bad_batch.py`."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def data() -> TensorDataset:
    """Measurements, one of which was never taken."""
    torch.manual_seed(0)
    x = torch.randn(96, 8)
    x[41, 3] = torch.nan
    return TensorDataset(x, x.nan_to_num().sum(1, keepdim=True))


def main() -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for x, y in DataLoader(data(), batch_size=16):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3g}")


if __name__ == "__main__":
    main()
