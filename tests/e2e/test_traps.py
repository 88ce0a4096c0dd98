"""More of what a script may do to whoever runs it: workers, ranks, flags, odd names, interrupts in forward."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

import modtrace
from tests.e2e.test_run import split, start


def both(folder, words, *, flags=(), name="train.py", options=()):
    plain = start(folder, *flags, name, *words)
    traced = start(
        folder, *flags, "-m", "modtrace", "run", "-q", "-f", "-o", "t.mtrace", *options, name, *words
    )
    assert traced.returncode == plain.returncode, traced.stderr
    assert traced.stdout == plain.stdout
    return plain, traced


DATA = """
import torch
from torch.utils.data import DataLoader, Dataset

class Numbers(Dataset):
    def __len__(self): return 8
    def __getitem__(self, index): return torch.full((3,), float(index))

if __name__ == "__main__":
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 4)
    for context in ("fork", "spawn"):
        for persistent in (False, True):
            kind = {"multiprocessing_context": context, "persistent_workers": persistent}
            loader = DataLoader(Numbers(), 4, num_workers=2, **kind)
            for _ in range(2):
                for batch in loader:
                    print(float(model(batch).sum()))
"""


def test_data_loader_workers(tmp_path):
    (tmp_path / "train.py").write_text(DATA)
    plain, traced = both(tmp_path, ())
    assert split(traced.stderr)[0] == plain.stderr
    kinds = modtrace.load(tmp_path / "t.mtrace").calls["kind"].value_counts()
    assert (kinds["module"], kinds["phase"]) == (16, 32)
    assert [folder.name for folder in (tmp_path / "t.mtrace").iterdir() if folder.is_dir()] == ["rank-0"]


FORWARD_FAILS = """
import sys, torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)
        self.hooked = torch.nn.Linear(4, 4)
        self.hooked.register_forward_hook(lambda *a: None)
    def forward(self, x):
        x = self.linear(x)
        try:
            self.hooked(x)
            {fault}
        except ZeroDivisionError as error:
            raise ValueError("around it") from error
Model()(torch.zeros(2, 3))
"""


@pytest.mark.parametrize(
    "fault",
    [
        "1 / 0",
        "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)",
        "sys.exit(5)",
        "self.hooked(x[:, :2])",
        "torch.nn.functional.layer_norm(x, (5,))",
        "x @ x",
        "x - 'a'",
        "torch.empty(1 << 50)",
        "raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')",
        "raise KeyError(x.shape)",
    ],
)
@pytest.mark.parametrize("options", [(), ("--functions",)])
def test_what_leaves_a_forward_is_printed_as_by_python(tmp_path, fault, options):
    (tmp_path / "train.py").write_text(FORWARD_FAILS.format(fault=fault))
    plain, traced = both(tmp_path, (), options=options)
    assert split(traced.stderr)[0] == plain.stderr
    calls = modtrace.load(tmp_path / "t.mtrace").calls
    calls = calls[calls["kind"] == "module"]
    assert calls["status"].iloc[0] == ("aborted" if "kill" in fault or "exit" in fault else "raised")


PHASE_FAILS = """
import torch
from torch.utils.data import DataLoader
class Bad(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, index): raise LookupError(index)
class BadStep(torch.optim.SGD):
    def step(self, closure=None): raise ArithmeticError("no step")
class BadBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x * 2
    @staticmethod
    def backward(ctx, grad): raise ValueError("no gradient")
model = torch.nn.Linear(3, 1)
{fault}
"""


@pytest.mark.parametrize(
    "fault",
    [
        "for batch in DataLoader(Bad()): pass",
        "BadStep(model.parameters(), 0.1).step()",
        "BadBackward.apply(model(torch.ones(2, 3))).sum().backward()",
        "loss = model(torch.ones(2, 3)).sum(); loss.backward(); loss.backward()",
        "model(torch.ones(2, 3)).backward()",
        "torch.optim.SGD(model.parameters(), 0.1).zero_grad(1, 2, 3)",
        "torch.nn.functional.cross_entropy(model(torch.ones(2, 3)), torch.ones(3, dtype=torch.long))",
        "torch.nn.functional.nll_loss(torch.ones(1), torch.ones(1, 1)) + model(torch.ones(2, 3))",
        "BadBackward.apply(model)",
    ],
)
@pytest.mark.parametrize("options", [(), ("--functions",)])
def test_what_leaves_a_phase_is_printed_as_by_python(tmp_path, fault, options):
    (tmp_path / "train.py").write_text(PHASE_FAILS.format(fault=fault))
    plain, traced = both(tmp_path, (), options=options)
    assert split(traced.stderr)[0] == plain.stderr
    assert b"Error" in plain.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with python 3.11")
def test_exception_group(tmp_path):
    (tmp_path / "train.py").write_text("raise ExceptionGroup('two', [ValueError(1), TypeError(2)])")
    plain, traced = both(tmp_path, ())
    assert split(traced.stderr)[0] == plain.stderr


@pytest.mark.parametrize("flags", [("-O",), ("-B", "-X", "dev"), ("-W", "error"), ("-s", "-E")])
def test_flags_of_python(tmp_path, flags):
    script = "import sys, torch\nprint(sys.flags, __debug__, sys.warnoptions)\nprint(torch.nn.ReLU()(torch.zeros(2)))"
    (tmp_path / "train.py").write_text(script)
    both(tmp_path, (), flags=flags)
    assert len(modtrace.load(tmp_path / "t.mtrace").calls) == 1


@pytest.mark.parametrize("flags", [("-I",), ("-P",)])
def test_safe_path(tmp_path, flags):
    if flags == ("-P",) and sys.version_info < (3, 11):
        pytest.skip("-P came with python 3.11")
    (tmp_path / "train.py").write_text("import sys\nprint(sys.path, sys.flags.isolated)")
    both(tmp_path, (), flags=flags)


@pytest.mark.parametrize("name", ["modtrace.py", "no_ending", "dir/in it.py"])
def test_odd_names(tmp_path, name):
    script = tmp_path / name
    script.parent.mkdir(exist_ok=True)
    script.write_text("import sys\nprint(__file__, sys.argv, sys.path[0])")
    plain = start(tmp_path, name, "a")
    traced = subprocess.run(
        [os.path.join(os.path.dirname(sys.executable), "modtrace"), "run", "-q", "-o", "t.mtrace", name, "a"],
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (traced.returncode, traced.stdout) == (plain.returncode, plain.stdout)


def test_directory_and_archive(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text(
        "import sys, other\nprint(sys.argv, other.x, __name__, __package__)"
    )
    (tmp_path / "app" / "other.py").write_text("x = 3")
    both(tmp_path, ("a",), name="app")


# torchrun ends rank 0 as soon as rank 1 has failed: rank 1 lets it make its calls first.
RANKS = """
import os, sys, time, torch
model = torch.nn.Sequential(torch.nn.Linear(3, 4))
model(torch.ones(2, 3)).sum().backward()
if os.environ["RANK"] == "0":
    open("called", "w").close()
elif "fail" in sys.argv:
    while not os.path.exists("called"):
        time.sleep(0.01)
    raise SystemExit(3)
"""


@pytest.mark.parametrize("words", [(), ("fail",)])
def test_status_of_ranks(tmp_path, words):
    (tmp_path / "train.py").write_text(RANKS)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    plain = start(tmp_path, *launcher, "train.py", *words)
    (tmp_path / "called").unlink()
    traced = start(tmp_path, *launcher, "-m", "modtrace", "run", "train.py", *words)
    assert traced.returncode == plain.returncode == len(words)
    (found,) = tmp_path.glob("*.mtrace")
    calls = modtrace.load(found).calls
    calls = calls[calls["kind"] == "module"]
    assert calls["rank"].value_counts().to_dict() == {0: 2, 1: 2}


def test_compiled_model_exits_at_once(tmp_path):
    body = """
    import torch
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    print(compiled(torch.ones(2, 3)).shape, compiled(torch.ones(2, 3)).shape)
    """
    (tmp_path / "train.py").write_text(textwrap.dedent(body))
    plain, traced = both(tmp_path, ())
    assert split(traced.stderr)[0] == plain.stderr
    calls = modtrace.load(tmp_path / "t.mtrace").calls
    assert list(calls["type"]) == ["OptimizedModule"] * 2


def test_interrupt_twice_while_saving(tmp_path):
    body = """
    import os, signal, sys, torch
    model = torch.nn.ReLU()
    model(torch.ones(2))
    import modtrace.capture.engine.tracer as tracer
    def stop(self):
        os.kill(os.getpid(), signal.SIGINT)
        while True: pass
    tracer.Tracer.stop = stop
    raise KeyboardInterrupt
    """
    (tmp_path / "train.py").write_text(textwrap.dedent(body))
    done = start(tmp_path, "-m", "modtrace", "run", "-q", "-o", "t.mtrace", "train.py")
    assert done.returncode == -signal.SIGINT
    assert modtrace.load(tmp_path / "t.mtrace").summary()
