"""No frame of modtrace is seen in tracebacks that anybody prints, or by warnings and log records that count frames."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

START = """
import logging, sys, threading, traceback, warnings, torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
warnings.simplefilter("always")
logging.basicConfig(format="%(filename)s:%(lineno)d %(message)s", stream=sys.stderr)
"""
WARNINGS = """
def warn(text):
    for level in range(1, 8):
        warnings.warn(f"{text} {level}", stacklevel=level)
        logging.warning("%s %d", text, level, stacklevel=level)

class Warns(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        warn("function forward")
        return x.clone()
    @staticmethod
    def backward(ctx, gradient):
        warn("function backward")
        return gradient

class Data(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, at):
        if at == 0:
            warn("dataset")
        return torch.ones(3)

class Short(IterableDataset):
    def __len__(self):
        return 1
    def __iter__(self):
        warn("iterable")
        return iter([torch.ones(3)] * 3)

def collate(rows):
    warn("collate")
    return torch.stack(rows)

class Sgd(torch.optim.SGD):
    def zero_grad(self, set_to_none=True):
        warn("zero_grad")
        super().zero_grad(set_to_none)
    @torch.no_grad()
    def step(self, closure=None):
        warn("step")
        return super().step(closure)

class Net(nn.Linear):
    def parameters(self, recurse=True):
        warn("parameters")
        return super().parameters(recurse)

def main():
    net = Net(3, 3)
    optimizer = Sgd(nn.ModuleList([net]).parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    scheduler.step()
    for batch in DataLoader(Data(), batch_size=2, collate_fn=collate):
        output = net(batch)
        output.register_hook(lambda gradient: warn("tensor hook"))
        loss = Warns.apply(output).sum()
        optimizer.zero_grad()
        net.zero_grad()
        loss.backward()
        optimizer.step()
    for batch in DataLoader(Short(), batch_size=1):
        pass
    torch.autograd.grad(Warns.apply(net(batch)).sum(), net.weight)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(net(batch).sum()).backward()
    scaler.step(optimizer)
    y = torch.empty(3)
    torch.add(torch.ones(2), torch.ones(2), out=y)
    out = net(batch)
    out.sum().backward(create_graph=True)

def below(depth):  # past the outermost frame of a script there is a frame of modtrace
    below(depth - 1) if depth else main()
below(6)
"""
RAISES = """
class Raises(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()
    @staticmethod
    def backward(ctx, gradient):
        raise ValueError("in backward")

class Data(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, at):
        raise ValueError("in a dataset")

class Sgd(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        raise ValueError("in step")

class Net(nn.Linear):
    def parameters(self, recurse=True):
        raise ValueError("in parameters")

net = nn.Linear(3, 3)
def backward():
    Raises.apply(net(torch.ones(2, 3))).sum().backward()
def gradient():
    torch.autograd.grad(Raises.apply(net(torch.ones(2, 3))).sum(), net.weight)
def backward_twice():
    loss = net(torch.ones(2, 3)).square().sum()
    loss.backward()
    loss.backward()
def data():
    next(iter(DataLoader(Data())))
def zero_grad():
    Net(2, 2).zero_grad()
def scaled():
    scaler = torch.amp.GradScaler("cpu")
    loss = scaler.scale(net(torch.ones(2, 3)).sum())
    loss.backward()
    scaler.step(Sgd(net.parameters(), 0.1))
def operation():
    torch.ones(2, 3) @ torch.ones(2, 3)
def function():
    nn.functional.softmax("no", 0)
def pooled():
    nn.functional.max_pool2d(torch.ones(2), 2)
def of_tensor():
    torch.ones(2).split("no")
ALL = [backward, gradient, backward_twice, data, zero_grad, scaled, operation, function, pooled, of_tensor]
"""
PRINTED = """
for fails in ALL:
    try:
        fails()
    except Exception:
        traceback.print_exc()
        logging.exception("logged")
    thread = threading.Thread(target=fails)
    thread.start()
    thread.join()
class Deleted:
    def __init__(self, fails):
        self.fails = fails
    def __del__(self):
        self.fails()
for fails in ALL:
    Deleted(fails)
"""
INSIDE = """
class Inside(nn.Module):
    def __init__(self, fails):
        super().__init__()
        self.fails = fails
    def forward(self, x):
        try:
            self.fails()
        except Exception:
            traceback.print_exc()
        self.fails()
for fails in ALL:
    try:
        nn.Sequential(nn.Linear(3, 3), Inside(fails))(torch.ones(2, 3))
    except Exception:
        traceback.print_exc()
"""
HOOKS = {
    "pythons": "",
    "formatting": "def hook(kind, error, tb): traceback.print_exception(kind, error, tb)\nsys.excepthook = hook\n",
    "of_the_error": "sys.excepthook = lambda *_: print(traceback.format_exception(_[1]), sys.last_value is _[1])\n",
    "last": "sys.excepthook = lambda *_: traceback.print_last()\n",
    "chained": "before = sys.excepthook\nprint(before is sys.__excepthook__)\n"
    "def hook(*_):\n    print('first')\n    before(*_)\nsys.excepthook = hook\n",
    "that_fails": "def hook(*_): 1 / 0\nsys.excepthook = hook\n",
    "missing": "del sys.excepthook\n",
    "rich": "import rich.traceback; rich.traceback.install(width=100, extra_lines=0)\n",
}


def start(folder, *words):
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "COLUMNS": "100"},
    )


def both(folder, text, *options):
    (folder / "program.py").write_text(text)
    plain = start(folder, "program.py")
    traced = start(folder, "-m", "modtrace", "run", "-q", "-f", "-o", "t.mtrace", *options, "program.py")
    assert traced.stderr.count("modtrace: saved ./t.mtrace\n") == 1
    return plain, traced, traced.stderr.replace("modtrace: saved ./t.mtrace\n", "")


OPTIONS = [[], ["--functions"]]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="logging counts every frame there: docs/recording.md")
def test_warnings_and_log_records_keep_file_and_line(tmp_path):
    plain, _, stderr = both(tmp_path, START + WARNINGS)
    assert plain.returncode == 0
    assert plain.stderr.count("UserWarning") > 100
    assert stderr.splitlines() == plain.stderr.splitlines()


def test_warnings_while_functions_are_recorded(tmp_path):
    """Those of torch's C++ name the mode's file then, and nothing else does."""
    plain, _, stderr = both(tmp_path, START + WARNINGS, "--functions")
    assert stderr.count("UserWarning") == plain.stderr.count("UserWarning")
    ours = [line for line in stderr.splitlines() if "modtrace" in line]
    assert len(ours) <= 3
    assert all("Triggered internally" in line for line in ours)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="python 3.10 keeps a frame that an exception leaves")
@pytest.mark.parametrize("options", OPTIONS)
def test_printed_and_logged_tracebacks(tmp_path, options):
    plain, _, stderr = both(tmp_path, START + RAISES + PRINTED, *options)
    # What it says at the end of backwards over several threads is no traceback.
    stderr = "".join(line for line in stderr.splitlines(True) if "not divided by module" not in line)
    assert plain.stderr.count("Traceback") >= 40
    if options:  # what hands itself over to a mode of the program's is called twice there
        assert "modtrace" not in stderr
        assert stderr.count("Traceback") == plain.stderr.count("Traceback")
    else:
        assert without_addresses(stderr) == without_addresses(plain.stderr)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="python 3.10 keeps a frame that an exception leaves")
@pytest.mark.parametrize("options", OPTIONS)
def test_tracebacks_printed_inside_a_module(tmp_path, options):
    plain, _, stderr = both(tmp_path, START + RAISES + INSIDE, *options)
    assert stderr.count("Traceback") == plain.stderr.count("Traceback") >= 20
    assert "modtrace" not in stderr


@pytest.mark.parametrize("name", HOOKS)
def test_exception_hooks(tmp_path, name):
    if name == "that_fails" and sys.version_info < (3, 11):
        pytest.skip("a caught exception keeps the frames that it has: docs/recording.md")
    text = START + HOOKS[name] + RAISES + "nn.Sequential(nn.ReLU(), Net(2, 2))(torch.ones(2, 3))\n"
    plain, traced, stderr = both(tmp_path, text)
    assert plain.returncode == traced.returncode == 1
    assert traced.stdout == plain.stdout
    assert without_addresses(stderr) == without_addresses(plain.stderr)


def without_addresses(text):
    return [line.partition(" at 0x")[0] if " at 0x" in line else line for line in text.splitlines()]


COMPILED = """
m = torch.compile(nn.Linear(2, 2), backend="eager")
with warnings.catch_warnings():
    warnings.simplefilter("error", UserWarning)
    m(torch.ones(1, 2))
nn.modules.module.register_module_forward_hook(lambda *_: None)
m(torch.ones(1, 2))
print(warnings.filters)
"""


def test_torch_warns_of_global_hooks_only_where_the_program_has_some(tmp_path):
    plain, traced, stderr = both(tmp_path, START + COMPILED)
    assert "global hooks" in plain.stderr
    assert (traced.returncode, traced.stdout, stderr) == (plain.returncode, plain.stdout, plain.stderr)
