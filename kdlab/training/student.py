"""One student in lockstep: network, method, optimiser, position, and all of it as tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn, optim

from kdlab.errors import CheckpointError, StudyError
from kdlab.methods import Method, Step
from kdlab.models.features import Features, StagedNet
from kdlab.training.crew import draws
from kdlab.training.options import Options, autocast
from kdlab.training.recipes import Recipe

_NAN = float("nan")


@dataclass
class Best:
    """The epoch with the highest validation accuracy so far (the earliest of equals)."""

    epoch: int = 0
    val_accuracy: float = -1.0
    test_accuracy: float = 0.0
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class StepInputs:
    """What all students share in one step; sizes are those of the batch.

    Attributes:
        images, target, index: of the batch.
        epoch: from 1.
        teachers: features of each teacher.
        classifiers: linear classifiers of the teachers.
        second_images, second_teachers: of the second view, where a method asks for one.
    """

    images: Tensor
    target: Tensor
    index: Tensor
    epoch: int
    teachers: tuple[Features, ...] = ()
    classifiers: tuple[nn.Module, ...] = ()
    second_images: Tensor | None = None
    second_teachers: tuple[Features, ...] = ()

    def step(
        self, images: Tensor, features: Features, teachers: tuple[Features, ...], second: Step | None = None
    ) -> Step:
        """One view of the batch as a method sees it."""
        return Step(features, self.target, teachers, self.classifiers, self.index, self.epoch, second, images)

    def part(self, rows: slice) -> StepInputs:
        """The same for a part of the batch."""
        return dataclasses.replace(
            self,
            images=self.images[rows],
            target=self.target[rows],
            index=self.index[rows],
            teachers=tuple(t.part(rows) for t in self.teachers),
            second_images=None if self.second_images is None else self.second_images[rows],
            second_teachers=tuple(t.part(rows) for t in self.second_teachers),
        )


class StudentRun:
    """A student under training; the engine tells it nothing of the others.

    Attributes:
        step, epoch: the next step to do (from 0, over all epochs) and the epoch it lies in (from 1).
        ended: why it is trained no further, or None: "kind" ("dropped" or "failed"), "step", "epoch", "text".
        prepared, visited: whether its method's `prepare` is done, and up to which epoch `revisit`.
        silent_until: a fork made after the fact repeats its parent up to this step, unrecorded; then 0.
        draws: whether a step may draw random numbers.
        micro_batch: pictures per forward pass; None for the whole batch.
    """

    def __init__(
        self,
        name: str,
        net: StagedNet,
        method: Method,
        recipe: Recipe,
        options: Options,
        device: torch.device,
    ) -> None:
        self.name, self.net, self.method = name, net, method
        self.recipe, self.options, self.device = recipe, options, device
        self.step, self.epoch = 0, 1
        self.ended: dict[str, Any] | None = None
        self.silent_until = 0
        self.prepared = False
        self.visited = 0
        self.micro_batch = options.micro_batch
        groups = [{"params": [p for p in net.parameters() if p.requires_grad]}, *method.parameter_groups()]
        groups = [group for group in groups if group["params"]]
        self.optimizer: optim.Optimizer = recipe.make_optimizer(groups)
        self.parameters: list[nn.Parameter] = [p for g in self.optimizer.param_groups for p in g["params"]]
        self.scaler = torch.amp.GradScaler(device.type) if options.precision == "fp16" else None
        self.best = Best()
        self.draws = draws(net, method)
        self.active: list[str] = []
        self.factors: dict[str, float] = {}
        self.forward: Callable[[Tensor], Features] = net.features
        if options.compile:
            mode = "reduce-overhead" if options.compile == "graphs" else None
            self.forward = torch.compile(net.features, mode=mode)

    @property
    def columns(self) -> list[str]:
        """Names of what one step records: those that `train_step` returns, then those the host knows."""
        names = self.method.terms
        return [
            *("loss", "train_correct", "grad_norm"),
            *(f"term/{name}" for name in names),
            "lr",
            *(f"factor/{name}" for name in names),
        ]

    @property
    def silent(self) -> bool:
        """Whether it still repeats its parent."""
        return self.silent_until > 0

    def refresh(self, epoch: int) -> None:
        """Look again at switches, weights and schedules; to be called when they or the epoch change."""
        self.active = self.method.active(epoch)
        self.factors = {term.name: term.factor(epoch) for term in self.method.terms.values()}

    def host_row(self, rate: float) -> list[float]:
        """The columns that the host knows."""
        return [rate, *self.factors.values()]

    def needs_teacher(self) -> bool:
        """Whether an active term reads a teacher."""
        return any(self.method.terms[name].needs_teacher for name in self.active)

    def train_step(self, inputs: StepInputs, rate: float) -> Tensor:
        """One update. Returns (columns,) values on the device, without those that the host knows."""
        self.net.train()
        self.method.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self.optimizer.zero_grad(set_to_none=True)
        size = len(inputs.target)
        micro = self.micro_batch or size
        parts = [slice(start, start + micro) for start in range(0, size, micro)]
        if len(parts) == 1:
            seen = self._backward(inputs, 1.0)
        else:
            shares = [min(part.stop, size) - part.start for part in parts]
            values = [self._backward(inputs.part(p), n / size) for p, n in zip(parts, shares, strict=True)]
            seen = torch.stack([v * (n / size) for v, n in zip(values, shares, strict=True)]).sum(dim=0)
        if not self.active:
            return torch.cat([seen[:2], seen.new_zeros(1), seen[2:]])
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm(gradients)
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        return torch.cat([seen[:2], norm.detach().float().reshape(1), seen[2:]])

    def _backward(self, inputs: StepInputs, share: float) -> Tensor:
        """Gradients of `share` times the loss. Returns loss, share of right answers, raw terms."""
        with autocast(self.options.precision, self.device):
            features = self._features(inputs.images)
            second = None
            if inputs.second_images is not None and self.method.second_view and self.active:
                images = inputs.second_images
                second = inputs.step(images, self._features(images), inputs.second_teachers)
            step = inputs.step(inputs.images, features, inputs.teachers, second)
            values = self.method.losses(step, self.active) if self.active else {}
            correct = (self._predicted(step).argmax(dim=1) == inputs.target).float().mean()
        self._check(values)
        nothing = correct.new_tensor(_NAN)
        total = None
        for name, value in values.items():
            part = value if self.factors[name] == 1.0 else value * self.factors[name]
            total = part if total is None else total + part
        if total is not None:
            scaled = total if share == 1.0 else total * share
            (scaled if self.scaler is None else self.scaler.scale(scaled)).backward()
        loss = correct.new_zeros(()) if total is None else total.detach().float()
        raw = [values[name].detach().float() if name in values else nothing for name in self.method.terms]
        return torch.stack([loss, correct, *raw])

    @torch.no_grad()
    def _predicted(self, step: Step) -> Tensor:
        """Logits of what will be deployed; the student's own classifier may not even be trained."""
        if self.method.built and self.method.overrides("predict"):
            return self.method.predict(step)
        return step.student.logits

    def _features(self, images: Tensor) -> Features:
        features = self.forward(images)
        if self.options.precision in ("bf16", "fp16"):  # softmax and norms deserve single precision
            features = dataclasses.replace(
                features, logits=features.logits.float(), embedding=features.embedding.float()
            )
        return features

    def _check(self, values: dict[str, Tensor]) -> None:
        if values.keys() != set(self.active):
            asked, got = sorted(self.active), sorted(values)
            raise StudyError(
                f"{type(self.method).__name__}.losses was asked for the terms {asked} and returned {got}; "
                "return exactly the terms in `active`."
            )

    # ---- state --------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything needed to go on exactly: tensors and plain values."""
        tensors = {f"net|{k}": v for k, v in self.net.state_dict().items()}
        tensors |= {f"method|{k}": v for k, v in self.method.state_dict().items()}
        numbers: dict[str, Any] = {}
        for index, slots in self.optimizer.state_dict()["state"].items():
            for key, value in slots.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer|{index}|{key}"] = value
                elif value is not None:
                    numbers[f"{index}|{key}"] = value
        return tensors, {
            "step": self.step,
            "epoch": self.epoch,
            "ended": self.ended,
            "silent_until": self.silent_until,
            "prepared": self.prepared,
            "visited": self.visited,
            "micro_batch": self.micro_batch,
            "optimizer": numbers,
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "best": {
                "epoch": self.best.epoch,
                "val": self.best.val_accuracy,
                "test": self.best.test_accuracy,
            },
            "terms": {name: term.state() for name, term in self.method.terms.items()},
            "details": {key: float(value) for key, value in self.method.details.items()},
        }

    def load_state(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Take back what `state` gave.

        Raises:
            CheckpointError: it is the state of another network or method.
        """
        try:
            self.net.load_state_dict(_part(tensors, "net"))
            self.method.load_state_dict(_part(tensors, "method"))
            self._load_slots({**_part(tensors, "optimizer"), **info["optimizer"]}, len(self.parameters))
        except (RuntimeError, IndexError) as error:
            raise CheckpointError(
                f"The checkpoint of student {self.name!r} does not fit its network or method; the code "
                f"of one of them has changed since ({str(error).splitlines()[0]})."
            ) from error
        self.method.apply_terms(info["terms"])
        # an epoch's row says them, and it may be due before the next step
        self.method.details = {k: torch.tensor(v, dtype=torch.float64) for k, v in info["details"].items()}
        if self.scaler is not None and info["scaler"]:
            self.scaler.load_state_dict(info["scaler"])
        self.step, self.epoch, self.ended = info["step"], info["epoch"], info["ended"]
        self.silent_until, self.micro_batch = info["silent_until"], info["micro_batch"]
        self.prepared, self.visited = info["prepared"], info["visited"]
        best = info["best"]
        self.best = Best(best["epoch"], best["val"], best["test"])

    def inherit(self, tensors: dict[str, Tensor], info: dict[str, Any], same_method: bool) -> None:
        """Begin as a fork: the parent's network and the network's optimiser state, at its position;
        with `same_method` also the method's trained parts and terms."""
        if same_method:
            self.load_state(tensors, info | {"ended": None})
        else:
            self.net.load_state_dict(_part(tensors, "net"))
            count = sum(p.requires_grad for p in self.net.parameters())  # they come first
            self._load_slots({**_part(tensors, "optimizer"), **info["optimizer"]}, count)
            self.step, self.epoch, self.micro_batch = info["step"], info["epoch"], info["micro_batch"]
        self.best = Best()

    def _load_slots(self, flat: dict[str, Any], count: int) -> None:
        """Optimiser state "INDEX|NAME" of the first `count` parameters."""
        slots: dict[int, dict[str, Any]] = {}
        for key, value in flat.items():
            index, name = key.split("|", 1)
            if int(index) >= count:
                continue
            parameter = self.parameters[int(index)]
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # the fused optimisers go through memory, so a slot must lie as its parameter does
                value = torch.empty_like(parameter, requires_grad=False).copy_(value)
            slots.setdefault(int(index), {})[name] = value
        packed = self.optimizer.state_dict()
        packed["state"] = slots
        self.optimizer.load_state_dict(packed)

    def keep_best(self, epoch: int, val_accuracy: float, test_accuracy: float) -> bool:
        """Remember these weights if the validation accuracy is the highest so far; whether it is."""
        if val_accuracy <= self.best.val_accuracy:
            return False
        weights = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        weights |= {f"method|{k}": v.detach().clone() for k, v in self.method.state_dict().items()}
        self.best = Best(epoch, val_accuracy, test_accuracy, weights)
        return True


def _part(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {k.split("|", 1)[1]: v for k, v in tensors.items() if k.startswith(f"{kind}|")}


def of_student(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The part of a checkpoint's tensors that belongs to one student."""
    prefix = f"{name}|"
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def joined(states: Sequence[tuple[str, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Tensors of several students under their names; `of_student` takes them apart."""
    return {f"{name}|{key}": value for name, own in states for key, value in own.items()}
