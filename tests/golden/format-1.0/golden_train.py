import torch
from torch import nn

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 2)

    def forward(self, x, scale=None):
        x = self.body(x)
        return self.head(x if scale is None else x * scale)


net = Net()
optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, foreach=False)
loader = torch.utils.data.DataLoader([(torch.ones(4), 1)] * 12, batch_size=3)
for x, y in loader:
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(x, scale=2.0), y).backward()
    optimizer.step()
net.eval()
with torch.no_grad():
    net(torch.ones(2, 4))
net.head(torch.ones(2, 9))
