"""Where the time of a training step goes: named parts of it, told apart by hooks on the model's modules.

At every moment exactly one part is running, the innermost one, so the parts of a step add up to the step.
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
    """Marks in time; on a GPU in its stream, where a mark does not wait for the device.

    Args:
        device: ``cpu`` or ``cuda``.
        of_processor: on a CPU, seconds of the processor in place of a clock's. Other programs disturb them less; those of
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
        """Until the device has done all it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()


class Parts:
    """Times the parts of one step after another; what no part claims is ``LOSS``."""

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
        """Within it is one step; afterwards the dictionary holds the seconds of each part, and of all as ``step``."""
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
        """Every forward call of the module is this part."""
        module.register_forward_pre_hook(lambda *_: self.enter(name))
        module.register_forward_hook(lambda *_: self.leave())

    def watch_label_pass(self, encoder: nn.Module, layer: int) -> None:
        """From subsampling to the end of layer k, where it is not the masked pass and not a recomputation."""

        def begin(*_) -> None:
            if self.running == [LOSS]:
                self.enter(LABEL_PASS)

        def end(*_) -> None:
            if self.running[-1] == LABEL_PASS:
                self.leave()

        encoder.pre_encode.register_forward_pre_hook(begin)
        encoder.layers[layer - 1].register_forward_hook(end)


def sums(steps: list[dict[str, float]]) -> dict[str, list[float]]:
    """Seconds of each part in each step, 0 where it did not occur."""
    result: dict[str, list[float]] = defaultdict(list)
    names = {name for step in steps for name in step}
    for step in steps:
        for name in names:
            result[name].append(step.get(name, 0.0))
    return dict(result)
