"""A plain residual network of convolutions: what a small ResNet looks like when it is written out."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Two convolutions around which the input goes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, width, height, length] to the same."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


class ResNet(nn.Module):
    """Images [batch, 3, height, length] to logits [batch, classes]."""

    def __init__(self, width: int = 64, blocks: int = 8, classes: int = 1_000) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.layers = nn.ModuleList([Residual(width) for _ in range(blocks)])
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each class."""
        x = F.relu(self.stem(x))
        for layer in self.layers:
            x = layer(x)
        return self.fc(x.mean((2, 3)))
