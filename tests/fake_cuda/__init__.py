"""CUDA without a GPU: `with fake_cuda(devices=2) as gpu:` runs what is recorded over devices that are played.

Everything in `torch.cuda` is torch's own; what is played is `torch._C._cuda_*` below it, so the program and the
recorders use streams, events, graphs and the allocator's counters as they would. Tensors are torch's too: those on the
torch device `plays` ("meta" unless said) stand for tensors on a GPU. What a device does and for how long is what the
test says with `gpu.work(ns)`.

    gpu.illegal     what was asked of the devices and may not be; of the recorder also what is merely unwise
    gpu.calls       how often the recorder has called each function
    gpu.tensor(2)   a tensor on the first device; `gpu.tensor(2, device=1)` on the second; `gpu.place(module, 1)`
"""

from tests.fake_cuda.installed import fake_cuda

__all__ = ["fake_cuda"]
