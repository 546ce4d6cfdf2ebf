"""What the convolutions of a step take by themselves: a step cannot be faster, whatever else is made faster.

The profiler of PyTorch adds up the time within them, over plain steps of kdlab's own teacher (BatchNorm
folded in), student and method, as a study computes them. A library; nothing happens when it is run.
"""

from __future__ import annotations

import time

import torch
from harness import Window
from sides import BATCH, Pair, networks, pictures
from torch.profiler import ProfilerActivity, profile, schedule

import kdlab
from kdlab.methods import Step
from kdlab.models import inspect_net
from kdlab.models.folding import fold_batchnorm
from kdlab.training.runtime import keep_freed_memory

_CONVOLUTIONS = ("aten::mkldnn_convolution", "aten::convolution_backward", "aten::thnn_conv2d")
_EPOCH = 5
_SETTLE = 6  # steps until memory is where it stays; the profiler needs some, too


class ConvolutionSide:
    """Steps of which only the convolutions are counted."""

    def __init__(self, pair: Pair, method: str = "kd", *, quick: bool = False) -> None:
        keep_freed_memory()
        data, self.source = pictures(2_000)
        teacher, student = networks(pair, data)
        last = torch.channels_last
        self.teacher = fold_batchnorm(teacher, data.input_shape).eval().requires_grad_(False)
        self.student, self.method = student, kdlab.methods.get(method)()
        specs = [inspect_net(net, data.input_shape) for net in (self.student, self.teacher)]
        self.method.build(specs[0], specs[1:])
        for module in (self.teacher, self.student, self.method):
            module.to(memory_format=last)  # type: ignore[call-overload]
        self.images = data.normalize(data.train.images[:BATCH]).contiguous(memory_format=last)
        self.target = data.train.labels[:BATCH]
        weights = [*self.student.parameters(), *self.method.parameters()]
        self.optimizer = torch.optim.SGD(weights, lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
        self.settle = 1 if quick else _SETTLE

    def step(self) -> None:
        """One update."""
        with torch.no_grad():
            told = self.teacher.features(self.images)
        self.student.train()
        self.optimizer.zero_grad()
        seen = self.student.features(self.images)
        index = torch.arange(BATCH)
        step = Step(seen, self.target, (told,), (self.teacher.classifier,), index, _EPOCH, None, self.images)
        values = self.method.losses(step, self.method.active(_EPOCH))
        sum(v * self.method.terms[name].factor(_EPOCH) for name, v in values.items()).backward()  # type: ignore[union-attr]
        self.optimizer.step()

    def run(self, seconds: float) -> Window:
        """Pictures, and the seconds that only their convolutions took."""
        start = time.perf_counter()
        self.step()
        steps = max(int(seconds / (time.perf_counter() - start)), 1)
        took: list[float] = []

        def told(done: profile) -> None:
            took.append(sum(e.self_cpu_time_total for e in done.key_averages() if e.key in _CONVOLUTIONS))

        plan = schedule(wait=0, warmup=self.settle, active=steps, repeat=1)
        with profile(activities=[ProfilerActivity.CPU], schedule=plan, on_trace_ready=told) as watched:
            for _ in range(self.settle + steps):
                self.step()
                watched.step()
        return Window(steps * BATCH, took[0] / 1e6)

    def close(self) -> None:
        pass
