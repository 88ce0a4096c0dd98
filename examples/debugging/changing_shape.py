"""A text classifier whose batches are not all alike: the last one of an epoch is smaller, and one has longer texts."""

import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self, words=50, width=16, classes=4):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens):
        states, _ = self.encoder(self.embed(tokens))
        return self.head(states[:, -1])


def batches():
    """Five batches of token numbers."""
    for number, (size, length) in enumerate([(8, 12), (8, 12), (8, 12), (8, 31), (5, 12)]):
        generator = torch.Generator().manual_seed(number)
        yield torch.randint(50, (size, length), generator=generator)


def main():
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step, tokens in enumerate(batches()):
        loss = nn.functional.cross_entropy(model(tokens), tokens[:, 0] % 4)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step}  loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
