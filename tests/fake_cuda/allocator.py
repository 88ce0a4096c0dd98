"""The caching allocator of the played devices: its counters, its history, and how it runs out of memory."""

from __future__ import annotations

from collections import Counter

import torch

BLOCK = 512
SMALL, LARGE = 2 << 20, 20 << 20
SMALL_UP_TO = 1 << 20
COUNTED = (
    "allocation", "segment", "active", "inactive_split",
    "allocated_bytes", "reserved_bytes", "active_bytes", "inactive_split_bytes", "requested_bytes",
)  # fmt: skip
OOM = (
    "CUDA out of memory. Tried to allocate {:.2f} MiB. GPU {} has a total capacity of {:.2f} MiB of which {:.2f} MiB "
    "is free. Including non-PyTorch memory, this process has {:.2f} MiB memory in use. Of the allocated memory "
    "{:.2f} MiB is allocated by PyTorch, and {:.2f} MiB is reserved by PyTorch but unallocated. If reserved but "
    "unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  "
    "See documentation for Memory Management  (https://docs.pytorch.org/docs/stable/notes/cuda.html)"
)
MIB = 1 << 20


class Stat:
    def __init__(self):
        self.current = self.peak = self.allocated = self.freed = 0

    def change(self, by):
        self.current += by
        self.peak = max(self.peak, self.current)
        if by > 0:
            self.allocated += by
        else:
            self.freed -= by

    def read(self):
        return {"current": self.current, "peak": self.peak, "allocated": self.allocated, "freed": self.freed}


class Segment:
    def __init__(self, address, size):
        self.address, self.size, self.used, self.blocks = address, size, 0, 0


class Allocator:
    """Of one device. Sizes are rounded up to blocks of 512 bytes, segments are of 2 or 20 MiB as in torch."""

    def __init__(self, gpu, device, limit):
        self.gpu, self.device, self.limit = gpu, device, limit
        self.stats = {
            (name, pool): Stat() for name in COUNTED for pool in ("all", "small_pool", "large_pool")
        }
        self.events = Counter()
        self.segments = []
        self.held = {}
        self.entries = None
        self._address = 0x7F80_0000_0000 + (device << 40)

    def allocate(self, size):
        """An address."""
        self.gpu.devices[self.device].context = True
        rounded = -(-max(size, 1) // BLOCK) * BLOCK
        pool = "small_pool" if rounded <= SMALL_UP_TO else "large_pool"
        segment = next((one for one in self.segments if one.size - one.used >= rounded), None)
        if segment is None:
            segment = self._new_segment(rounded, pool, size)
        address = (
            segment.address + segment.used if not segment.blocks else segment.address + BLOCK * len(self.held)
        )
        while address in self.held:
            address += BLOCK
        segment.used += rounded
        segment.blocks += 1
        self.held[address] = segment, size, rounded, pool
        self._count(pool, rounded, size, 1)
        self._note("alloc", address, size)
        return address

    def free(self, address):
        segment, size, rounded, pool = self.held.pop(address)
        segment.used -= rounded
        segment.blocks -= 1
        self._count(pool, -rounded, -size, -1)
        self._note("free_requested", address, size)
        self._note("free_completed", address, size)

    def _count(self, pool, rounded, size, blocks):
        by = {
            "allocation": blocks,
            "active": blocks,
            "allocated_bytes": rounded,
            "active_bytes": rounded,
            "requested_bytes": size,
        }
        split = sum(one.size - one.used for one in self.segments if one.blocks)
        by["inactive_split_bytes"] = split - self.stats["inactive_split_bytes", "all"].current
        for name, change in by.items():
            for part in ("all", pool):
                self.stats[name, part].change(change)

    def _new_segment(self, rounded, pool, asked):
        size = SMALL if pool == "small_pool" else max(LARGE, -(-rounded // SMALL) * SMALL)
        if self._reserved + size > self.limit:
            self.events["num_alloc_retries"] += 1
            self.empty()
        if self._reserved + size > self.limit:
            self.events["num_ooms"] += 1
            self._note("oom", 0, asked)
            allocated = self.stats["allocated_bytes", "all"].current
            numbers = (
                self.limit, self.limit - self._reserved, self._reserved, allocated, self._reserved - allocated
            )  # fmt: skip
            raise torch.OutOfMemoryError(
                OOM.format(asked / MIB, self.device, *(one / MIB for one in numbers))
            )
        self.events["num_device_alloc"] += 1
        segment = Segment(self._address, size)
        self._address += size
        self.segments.append(segment)
        for part in ("all", pool):
            self.stats["segment", part].change(1)
            self.stats["reserved_bytes", part].change(size)
        self._note("segment_alloc", segment.address, size)
        return segment

    @property
    def _reserved(self):
        return sum(segment.size for segment in self.segments)

    def empty(self):
        """As `torch.cuda.empty_cache`."""
        for segment in [one for one in self.segments if not one.blocks]:
            self.segments.remove(segment)
            self.events["num_device_free"] += 1
            pool = "small_pool" if segment.size == SMALL else "large_pool"
            for part in ("all", pool):
                self.stats["segment", part].change(-1)
                self.stats["reserved_bytes", part].change(-segment.size)
            self._note("segment_free", segment.address, segment.size)

    def read(self):
        """As `torch._C._cuda_memoryStats`."""
        found = {name: {} for name in COUNTED}
        for (name, pool), stat in self.stats.items():
            found[name][pool] = stat.read()
        names = "num_alloc_retries", "num_ooms", "num_sync_all_streams", "num_device_alloc", "num_device_free"
        numbers = {name: self.events[name] for name in names}
        none = dict.fromkeys(("current", "peak", "allocated", "freed"), 0)
        return {
            **found,
            **numbers,
            "max_split_size": -1,
            "oversize_allocations": none,
            "oversize_segments": none,
        }

    def reset_peak(self):
        for stat in self.stats.values():
            stat.peak = stat.current

    def reset_accumulated(self):
        for stat in self.stats.values():
            stat.allocated = stat.freed = 0
        self.events.clear()

    def _note(self, action, address, size):
        if self.entries is not None:
            entry = {
                "action": action,
                "addr": address,
                "size": size,
                "stream": 0,
                "time_us": self.gpu.history_clock_us(),
            }
            entry |= {"user_metadata": self.gpu.metadata, "pool_id": (0, 0), "frames": []}
            self.entries.append(entry)
