"""Nothing of modtrace asks for a device, or starts its driver, in a program that does not.

`torch.accelerator.is_available` runs `cuInit`: after it a later CUDA_VISIBLE_DEVICES no longer counts, and a forked
child cannot use CUDA.
"""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, os, sys
ASKS = {"is_available", "device_count", "_lazy_init", "init", "current_device", "current_device_index",
        "get_device_name", "get_device_properties", "get_device_capability", "_device_count_nvml",
        "synchronize", "mem_get_info"}
asked = []
def look(frame, event, argument):
    code = frame.f_code
    if event != "call" or code.co_name not in ASKS:
        return
    if any(os.path.join("torch", part) in code.co_filename for part in ("cuda", "accelerator")):
        above = frame.f_back
        while above is not None:
            ours = f"{os.sep}modtrace{os.sep}capture{os.sep}" in above.f_code.co_filename
            if ours and above.f_code.co_name not in LAUNCHING:
                asked.append(f"{code.co_name} by {above.f_code.co_name} in {above.f_code.co_filename}")
            above = above.f_back
        if ALL:
            asked.append(code.co_name)
LAUNCHING, ALL = {"exec_module"}, len(sys.argv) > 1  # the import of torch runs inside it
above = sys._getframe()
while above is not None:
    LAUNCHING.add(above.f_code.co_name)
    above = above.f_back
sys.setprofile(look)
import torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, foreach=False)
loader = torch.utils.data.DataLoader([torch.ones(3)] * 8, batch_size=2)
for x in loader:
    optimizer.zero_grad()
    net(x).square().mean().backward()
    optimizer.step()
if ALL:
    torch.cuda.is_available()
sys.setprofile(None)
print(json.dumps(asked))
"""


def asked(tmp_path, *options, arguments=()):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    trace = str(tmp_path / "t.mtrace")
    done = subprocess.run(
        [sys.executable, "-m", "modtrace", "run", "-q", "-o", trace, *options, str(script), *arguments],
        capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_no_device_is_asked_for(tmp_path):
    assert asked(tmp_path, "--functions", "--syncs", "--saved", "0:2") == []


def test_the_test_sees_who_asks(tmp_path):
    assert "is_available" in asked(tmp_path, arguments=["all"])
