"""What the live view costs: CPU time of `modtrace live` at 4 Hz beside a training run, as a share of one core.

python benchmarks/live.py [SECONDS]. The run is a process of its own, and so is not counted.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from modtrace.analysis.live import LiveTrace
from modtrace.views.tui.app import Viewer
from modtrace.views.tui.live_screen import LiveScreen

BAR_PERCENT = 6.0
SCRIPT = """
import time, torch

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.norm = torch.nn.Linear(32, 32), torch.nn.LayerNorm(32)
        self.up, self.act, self.down = torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 32)

    def forward(self, x):
        return x + self.down(self.act(self.up(self.norm(self.attn(x)))))

net = torch.nn.Sequential(*[Block() for _ in range(24)], torch.nn.Linear(32, 4))
optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
while True:
    optimizer.zero_grad()
    net(torch.randn(4, 32)).square().mean().backward()
    optimizer.step()
    time.sleep(0.02)
"""


async def watch(path: Path, seconds: float) -> tuple[float, int, int]:
    """CPU seconds, steps and calls seen in a time."""
    screen = LiveScreen(LiveTrace(path))
    async with Viewer(None, live=screen).run_test(size=(120, 32)) as pilot:
        await pilot.pause(2.0)
        process = screen.trace.processes[0]
        steps, calls, began = process.steps.ended, process.steps.calls, time.process_time()
        await asyncio.sleep(seconds)
        spent = time.process_time() - began
        return spent, process.steps.ended - steps, process.steps.calls - calls


def main() -> None:
    """Print the share, and whether it is within the bar."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.mtrace")
        words = [sys.executable, "-m", "modtrace", "run", "-q", "-o", str(path), "-c", SCRIPT]
        with subprocess.Popen(words, stderr=subprocess.DEVNULL) as running:
            try:
                while running.poll() is None and not list(path.glob("rank-0/calls.arrows")):
                    time.sleep(0.1)
                time.sleep(2.0)
                spent, steps, calls = asyncio.run(watch(path, seconds))
            finally:
                running.terminate()
    share = 100 * spent / seconds
    print(f"4 Hz over {seconds:.0f} s: {steps} steps, {calls:,} module calls seen")
    verdict = "met" if share < BAR_PERCENT else "MISSED"
    print(f"CPU {spent:.2f} s, {share:.1f}% of a core (bar {BAR_PERCENT:.0f}%): {verdict}")


if __name__ == "__main__":
    main()
