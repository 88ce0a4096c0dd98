"""A model that waits for its device in each forward, and has a layer that it never calls."""

import torch
from torch import nn


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(16, 32)
        self.spare = nn.Linear(32, 10)  # forward does not call it
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.embed(x)
        if x.abs().max().item() > 100:  # on a GPU the host waits here
            x = x / x.norm()
        return self.head(x)


def main():
    torch.manual_seed(0)
    model = Gate()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        loss = model(torch.randn(8, 16)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3g}")


if __name__ == "__main__":
    main()
