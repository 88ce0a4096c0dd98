"""LeNet on synthetic digits: ten noisy patterns of 28x28, told apart after a few steps."""

import torch
import torch.nn.functional as F
from torch import nn


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        layer1 = nn.Sequential()
        layer1.add_module("conv1", nn.Conv2d(1, 6, 3, padding=1))
        layer1.add_module("pool1", nn.MaxPool2d(2, 2))
        self.layer1 = layer1

        layer2 = nn.Sequential()
        layer2.add_module("conv2", nn.Conv2d(6, 16, 5))
        layer2.add_module("pool2", nn.MaxPool2d(2, 2))
        self.layer2 = layer2

        layer3 = nn.Sequential()
        layer3.add_module("fc1", nn.Linear(400, 120))
        layer3.add_module("fc2", nn.Linear(120, 84))
        layer3.add_module("fc3", nn.Linear(84, 10))
        self.layer3 = layer3

    def forward(self, x):
        x = self.layer1(x)
        x = self.layer2(x)
        x = x.view(x.size(0), -1)
        return self.layer3(x)


def make_digits(count):
    patterns = torch.rand(10, 1, 28, 28)
    labels = torch.randint(0, 10, (count,))
    return patterns[labels] + 0.2 * torch.randn(count, 1, 28, 28), labels


def main():
    torch.manual_seed(0)
    images, labels = make_digits(512)
    model = LeNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    for epoch in range(4):
        correct, total_loss = 0, 0.0
        for batch, target in zip(images.split(64), labels.split(64), strict=True):
            output = model(batch)
            loss = F.cross_entropy(output, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total_loss += loss.item()
            correct += (output.argmax(1) == target).sum().item()
        print(f"epoch {epoch}  loss {total_loss / 8:.4f}  accuracy {correct / 512:.2f}")


if __name__ == "__main__":
    main()
