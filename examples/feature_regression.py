"""Estimate six numbers from a map of 225 correlations, as in geometric matching: normalise, then regress."""

import torch
import torch.nn.functional as F
from torch import nn


class FeatureL2Norm(nn.Module):
    """Divide each position's features by their length."""

    def forward(self, feature):
        epsilon = 1e-6
        norm = torch.pow(torch.sum(torch.pow(feature, 2), 1) + epsilon, 0.5)
        return torch.div(feature, norm.unsqueeze(1).expand_as(feature))


class FeatureRegression(nn.Module):
    def __init__(self, output_dim=6, use_cuda=True):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(225, 128, kernel_size=7),
            nn.BatchNorm2d(128),
            nn.ReLU(inplace=True),
            nn.Conv2d(128, 64, kernel_size=5),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
        )
        self.linear = nn.Linear(64 * 5 * 5, output_dim)
        if use_cuda:
            self.cuda()

    def forward(self, x):
        x = self.conv(x)
        x = x.flatten(1)
        return self.linear(x)


class MatchingNet(nn.Module):
    def __init__(self, use_cuda):
        super().__init__()
        self.normalise = FeatureL2Norm()
        self.regress = FeatureRegression(output_dim=6, use_cuda=use_cuda)

    def forward(self, correlation):
        return self.regress(self.normalise(correlation))


def main():
    torch.manual_seed(0)
    use_cuda = torch.cuda.is_available()
    device = "cuda" if use_cuda else "cpu"

    model = MatchingNet(use_cuda)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)

    correlation = torch.rand(8, 225, 15, 15, device=device)
    theta = torch.randn(8, 6, device=device)
    for step in range(5):
        loss = F.mse_loss(model(correlation), theta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}  loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
