"""A CNN like ResNet-18, written out: blocks of two convolutions around a residual."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions, and a third where the residual must change its size."""

    def __init__(self, given: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(given, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.down: nn.Module = nn.Identity()
        if stride != 1 or given != width:
            self.down = nn.Sequential(
                nn.Conv2d(given, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[batch, given, h, w] to [batch, width, h / stride, w / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.down(x))


class ResNet(nn.Module):
    """Images [batch, 3, h, w] to logits [batch, classes]."""

    def __init__(self, width: int = 64, blocks: tuple[int, ...] = (2, 2, 2, 2), classes: int = 1_000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        layers: list[nn.Module] = []
        given = width
        for stage, count in enumerate(blocks):
            for at in range(count):
                layers.append(Block(given, width << stage, 2 if stage and not at else 1))
                given = width << stage
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(given, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes."""
        return self.head(F.adaptive_avg_pool2d(self.layers(self.stem(x)), 1).flatten(1))
