"""Measures the time of named parts of a training step with hooks on the model's modules.

At any time exactly one part is active, the innermost one, so the parts add up to the step.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

PREPROCESSOR, MASKING, MASKED_PASS, LABEL_PASS = "preprocessor", "masking", "masked pass", "label pass"
LABELS, LOSS, STATISTICS = "labels", "head and losses", "statistics"
BACKWARD, OPTIMIZER = "backward", "clipping and optimizer"
PARTS = PREPROCESSOR, MASKING, MASKED_PASS, LABEL_PASS, LABELS, LOSS, STATISTICS, BACKWARD, OPTIMIZER


class Clock:
    """Records times. On a GPU, they are events in its stream, which do not wait for the device.

    Args:
        device: ``cpu`` or ``cuda``.
        of_processor: on a CPU, measure processor time, which other programs affect less, instead of wall time. The times of
            several threads add up.
    """

    def __init__(self, device: str, of_processor: bool = False):
        self.on_gpu = device == "cuda"
        self.now = time.process_time if of_processor else time.perf_counter

    def mark(self) -> float | torch.cuda.Event:
        if not self.on_gpu:
            return self.now()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
        return begin.elapsed_time(end) / 1000 if self.on_gpu else end - begin

    def wait(self) -> None:
        """Waits until the device has finished its work."""
        if self.on_gpu:
            torch.cuda.synchronize()


class Parts:
    """Times the parts of steps in sequence; the remaining time is ``LOSS``."""

    def __init__(self, clock: Clock):
        self.clock = clock
        self.running = [LOSS]
        self.changes: list[tuple] = []

    def enter(self, name: str) -> None:
        self.running.append(name)
        self.changes.append((self.clock.mark(), name))

    def leave(self) -> None:
        self.running.pop()
        self.changes.append((self.clock.mark(), self.running[-1]))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.enter(name)
        yield
        self.leave()

    @contextmanager
    def step(self) -> Iterator[dict[str, float]]:
        """Measures one step; after the block, the dictionary has the seconds of each part, and the total as ``step``."""
        result: dict[str, float] = {}
        self.clock.wait()
        began = self.clock.now()
        self.running, self.changes = [LOSS], [(self.clock.mark(), LOSS)]
        yield result
        last = self.clock.mark()
        self.clock.wait()
        result["step"] = self.clock.now() - began
        ends = [mark for mark, _ in self.changes[1:]] + [last]
        for (begin, name), end in zip(self.changes, ends, strict=True):
            result[name] = result.get(name, 0.0) + self.clock.seconds(begin, end)

    def watch(self, module: nn.Module, name: str) -> None:
        """Counts every forward call of the module to this part."""
        module.register_forward_pre_hook(lambda *_: self.enter(name))
        module.register_forward_hook(lambda *_: self.leave())

    def watch_label_pass(self, encoder: nn.Module, layer: int) -> None:
        """Counts the label pass, from subsampling to the end of layer k, without masked passes and recomputations."""

        def begin(*_) -> None:
            if self.running == [LOSS]:
                self.enter(LABEL_PASS)

        def end(*_) -> None:
            if self.running[-1] == LABEL_PASS:
                self.leave()

        encoder.pre_encode.register_forward_pre_hook(begin)
        encoder.layers[layer - 1].register_forward_hook(end)


def sums(steps: list[dict[str, float]]) -> dict[str, list[float]]:
    """Returns the seconds of each part in each step; 0 if it did not occur."""
    result: dict[str, list[float]] = defaultdict(list)
    names = {name for step in steps for name in step}
    for step in steps:
        for name in names:
            result[name].append(step.get(name, 0.0))
    return dict(result)
