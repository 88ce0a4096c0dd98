"""The six steps of training, each written out, with the update done by hand."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)

# 1. Define the network.
model = nn.Sequential(
    nn.Linear(8, 32),
    nn.Tanh(),
    nn.Linear(32, 1),
)
criterion = nn.MSELoss()
learning_rate = 0.05

# 2. Load the data: points on a curved surface.
points = torch.randn(256, 8)
heights = torch.sin(points[:, :1]) + 0.5 * points[:, 1:2]
loader = DataLoader(TensorDataset(points, heights), batch_size=32, shuffle=True)

for epoch in range(5):
    total = 0.0
    for inputs, target in loader:
        # 3. Forward.
        output = model(inputs)

        # 4. Compute the loss.
        loss = criterion(output, target)
        total += loss.item()

        # 5. Backward.
        model.zero_grad()
        loss.backward()

        # 6. Update: weight = weight - learning_rate * gradient
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(weight - learning_rate * weight.grad)

    print(f"epoch {epoch}  loss {total / len(loader):.4f}")
