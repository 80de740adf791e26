"""A stand-in for torch.cuda that keeps its rules: the current device is 0 until told, and each device has a stream."""

from contextlib import contextmanager

import torch


class FakeStream:
    def __init__(self, device):
        self.device = device
        self.waited_for = []

    def wait_stream(self, other):
        self.waited_for.append(other)

    def record_event(self, event):
        event.stream = self
        return event


class FakeEvent:
    stream = None

    def query(self):
        return True

    def synchronize(self):
        pass


class FakeGraph:
    replays = 0

    def replay(self):
        self.replays += 1


class FakeCuda:
    """Attributes: `asked`, which device each question was about; `captures`, the stream of each recording."""

    Event, CUDAGraph = FakeEvent, FakeGraph

    def __init__(self, *, ending_fails=False):
        self.current = 0
        self.streams = {}
        self.asked = []
        self.captures = []
        self.ending_fails = ending_fails

    def _index(self, device):
        if device is None or isinstance(device, int):
            return self.current if device is None else device
        return torch.device(device).index

    @contextmanager
    def device(self, device):
        before, self.current = self.current, self._index(device)
        try:
            yield
        finally:
            self.current = before

    def Stream(self, device=None):  # noqa: N802
        return FakeStream(self._index(device))

    def current_stream(self, device=None):
        index = self._index(device)
        return self.streams.setdefault(index, FakeStream(index))

    def set_stream(self, stream):
        self.streams[stream.device] = stream

    @contextmanager
    def stream(self, stream):
        before = self.current_stream(stream.device)
        self.set_stream(stream)
        try:
            yield
        finally:
            self.set_stream(before)

    @contextmanager
    def graph(self, graph, stream=None, capture_error_mode="global"):
        stream = stream or FakeStream(0)  # torch keeps one for the process, on the device that was current at first
        self.captures.append((stream, capture_error_mode))
        before = self.current_stream(stream.device)
        self.set_stream(stream)
        failed = True
        try:
            yield
            failed = False
        finally:
            if failed or self.ending_fails:  # as in torch, the stream stays
                raise RuntimeError("operation failed due to a previous error during capture")
            self.set_stream(before)

    def mem_get_info(self, device=None):
        self.asked.append(("free memory", self._index(device)))
        return 7, 9

    def empty_cache(self):
        self.asked.append(("empty cache", self.current))
