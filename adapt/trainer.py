"""The trainer: runs a method's stages, and owns everything that is not the method.

Mixed precision, schedule, accumulation, bad losses, checkpoints, signals, budgets, progress.
A run that is killed at any moment and resumed ends with the weights of one that never was, bit for
bit on a CPU: every random draw comes from (seed, step), and a checkpoint holds all that changes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.atomic import flush, output_errors
from ..runtime.cores import available_cores
from ..runtime.errors import ConfigError, RunInterrupted, TrainingError
from .batch_norm import batch_norm_layers, reestimate_batch_norm
from .budget import Deadline, peak_memory
from .checkpoint import (
    RunState,
    load_checkpoint,
    load_optimizer_tensors,
    optimizer_bytes,
    optimizer_tensors,
    read_tensors,
    save_checkpoint,
    tensor_parts,
    write_atomically,
)
from .config import TrainingConfig
from .context import Context
from .dataset import Batch, CropSampler, Prefetcher
from .ema import blend
from .judging.watch import Watch
from .lone_values import lone_values_allowed
from .methods.base import Stage, prefixed, under
from .networks import SegmentationNetwork
from .passes import Passes, is_finite, seed_of
from .precision import Precision, PrecisionName, native_precisions
from .rehearsal import (
    MEASURED_FROM,
    NO_ROOM,
    choose_precision,
    describe_choice,
    largest_micro_batch,
    measure_precisions,
)

CHECKPOINT = "checkpoint.safetensors"
HISTORY = "history.jsonl"
MAX_LOADERS = 8  # threads that make batches while a GPU takes steps


@dataclass(frozen=True)
class Progress:
    """One step, as a progress display wants it."""

    stage: str
    step: int  # steps done in the whole run
    steps: int
    steps_per_s: float
    eta_s: float
    losses: dict[str, float]


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; none of it belongs to the method."""

    fingerprint: str
    resume: bool = False
    checkpoint_every_s: float = 60.0
    time_budget_s: float | None = None
    memory_budget_bytes: int | None = None
    report: Callable[[Progress], None] = lambda _: None
    note: Callable[[str], None] = lambda _: None
    stop_requested: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class RunSummary:
    """What a run did; goes into the bundle's manifest."""

    steps: int
    skipped_steps: int
    seconds: float
    peak_memory_mib: float
    micro_batch: int
    precision: str
    precision_measured: Mapping[str, Mapping[str, float | None]] | None  # None: not by measuring
    losses: str  # what computed them
    batch_norm_layers: int
    watch: Mapping[str, Any] | None = None  # what was seen of the frames set aside, if any were


@contextmanager
def _compiler_errors(compiled: bool) -> Iterator[None]:
    """What torch.compile cannot do, in a sentence."""
    if not compiled:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    try:
        yield
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)
        first = next(iter(str(cause).splitlines()), type(cause).__name__)
        raise TrainingError(
            f"torch.compile cannot compile this network here ({first}); set training.compile=false."
        ) from error


def learning_rate_factor(step: int, steps: int, training: TrainingConfig) -> float:
    """Share of the learning rate at ``step``: linear warm-up, then poly decay to the horizon.

    (1 - step / horizon)^power,  horizon = schedule_steps or steps
    """
    horizon = training.schedule_steps or max(steps, 1)
    decay = max(0.0, 1 - step / horizon) ** training.poly_power
    if step < training.warmup_steps:
        warm = training.warmup_factor
        decay *= warm + (1 - warm) * step / training.warmup_steps
    return float(decay)


def build_optimizer(
    stage: Stage, model: SegmentationNetwork, training: TrainingConfig
) -> torch.optim.Optimizer:
    """The optimiser over the stage's parameter groups; each keeps its ``factor``.

    Raises:
        TrainingError: no weight learns.
    """
    groups = [
        {"params": group.parameters, "factor": group.factor, "lr": training.lr * group.factor}
        for group in stage.parameter_groups(model, training.classifier_lr_factor)
    ]
    if not groups:
        raise TrainingError(
            f"{stage.name}: every weight of this network is frozen (requires_grad is off), so none "
            "can learn; let its factory return it with weights that learn, or choose bn_stats."
        )
    if training.optimizer == "adamw":
        return torch.optim.AdamW(
            groups,
            betas=(training.momentum, 0.999),
            weight_decay=training.weight_decay,
            fused=True,
        )
    return torch.optim.SGD(
        groups,
        lr=training.lr,
        momentum=training.momentum,
        nesterov=training.nesterov,
        weight_decay=training.weight_decay,
        foreach=True,  # the fused one fails where a parameter's first gradient comes late
    )


class Trainer:
    """One run of a method's stages over a model.

    Args:
        model: the source model; becomes the result, in place.
        stages: the method's, not yet begun.
        context: frames, device, working folder and settings.
        options: how to carry it out.
    """

    def __init__(
        self,
        model: SegmentationNetwork,
        stages: list[Stage],
        context: Context,
        options: RunOptions,
    ) -> None:
        self.model, self.stages, self.context, self.options = model, stages, context, options
        self.training = context.config.training
        self.sampler = CropSampler(
            context.frames, self.training, context.config.augment, context.config.seed
        )
        steps = self.training.steps if stages else 0
        amp = self.training.amp
        measured = amp == "auto" and steps >= MEASURED_FROM
        self._candidates = native_precisions(context.device) if measured else ()
        self.precision = Precision("fp32" if amp == "auto" or amp == "off" else amp, context.device)
        self.state = RunState(
            options.fingerprint,
            planned_steps=steps,
            micro_batch=self.training.micro_batch or self.training.batch_size,
        )
        self.watch = Watch(model, context, self._start_file(0), self.state.planned_steps)
        self._last_checkpoint = time.monotonic()
        self._restored: dict[str, Tensor] | None = None

    def run(self) -> RunSummary:
        """Warm start, stages, the best step that was looked at, blend, clean statistics.

        The blend keeps ``blend`` of the way from the weights after the warm start to those after
        the last stage (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).

        Raises:
            TrainingError: losses stay non-finite, or the memory budget cannot be met.
            RunInterrupted: a signal came; a checkpoint was written.
            OutputError: a checkpoint cannot be written.
        """
        deadline = Deadline(self.options.time_budget_s)
        with peak_memory(self.context.device) as peak:
            if not self._resume(deadline):
                self._begin(deadline)
            self.watch.begin()
            weights, _ = read_tensors(self._start_file(self.state.stage))
            self.model.load_state_dict(weights)
            for number in range(self.state.stage, len(self.stages)):
                if self.watch.stopped:
                    break
                self._run_stage(number, deadline)
            self.watch.finish(self.state.done, self.state.planned_steps)
            if self.stages and self.context.config.blend < 1:
                blend(self.model, read_tensors(self._start_file(0))[0], self.context.config.blend)
            layers = 0
            if self.stages and self.context.config.final_bn and self._batch_norm_moves():
                self.options.note("re-estimating batch-norm statistics on clean frames")
                layers = self._reestimate()
        return RunSummary(
            steps=self.state.done,
            skipped_steps=self.state.skipped_steps,
            seconds=deadline.elapsed_s,
            peak_memory_mib=peak.mib,
            micro_batch=self.state.micro_batch,
            precision=self.precision.name,
            precision_measured=self.state.precision_measured,
            losses=self.context.losses,
            batch_norm_layers=layers or len(batch_norm_layers(self.model)),
            watch=self.watch.record(),
        )

    # --- start ----------------------------------------------------------------------------------

    def _resume(self, deadline: Deadline) -> bool:
        """Take up the run that was stopped, if there is one."""
        checkpoint, history = self.context.workdir / CHECKPOINT, self.context.workdir / HISTORY
        if not (self.options.resume and checkpoint.exists()):
            return False
        self._restored, state = load_checkpoint(checkpoint)
        if state.fingerprint != self.options.fingerprint:
            raise TrainingError(
                f"{self.context.workdir}: this run was started with other frames, settings or "
                "source model; repeat its command with --resume, or start anew with --overwrite."
            )
        self.state, deadline.before_s = state, state.elapsed_s
        if state.precision is not None:
            self.precision = self._resumed_precision(state.precision)
        self.watch.load_state(state.watch)
        if history.exists():
            with output_errors(history), history.open("r+b") as file:
                file.truncate(state.history_bytes)  # lines written after the checkpoint
        self.options.note(f"resuming after step {state.done}")
        return True

    def _resumed_precision(self, name: PrecisionName) -> Precision:
        try:
            return Precision(name, self.context.device)
        except ConfigError as error:
            raise TrainingError(
                f"{self.context.workdir}: this run learns in {name}, as was measured on a GPU; "
                "continue it on one, or start anew with --overwrite."
            ) from error

    def _begin(self, deadline: Deadline) -> None:
        """Warm start, and the first checkpoint."""
        with output_errors(self.context.workdir):
            (self.context.workdir / HISTORY).unlink(missing_ok=True)
        if self.context.config.warm_start == "bn":
            if self._batch_norm_moves():
                count = len(self.context.frames)
                self.options.note(f"warm start: batch-norm statistics over {count} frames")
                self._reestimate()
            else:
                self.options.note("no warm start: the network keeps no batch-norm statistics")
        self._write_start(0)
        self._checkpoint(deadline)

    def _batch_norm_moves(self) -> bool:
        return bool(batch_norm_layers(self.model))

    def _reestimate(self) -> int:
        return reestimate_batch_norm(self.model, self.context.whole_frames(), self.options.note)

    def _start_file(self, stage: int) -> Path:
        return self.context.workdir / f"stage-{stage}.safetensors"

    def _write_start(self, stage: int) -> None:
        """The model at the beginning of a stage: teachers are made from it, also after a resume."""
        write_atomically(self._start_file(stage), tensor_parts(self.model.state_dict()))

    # --- stages ---------------------------------------------------------------------------------

    def _end_of_stage(self) -> int:
        """Steps of the run when the stage ends: the stages left divide the steps left."""
        state = self.state
        left = state.planned_steps - state.stage_start
        shares = [stage.share for stage in self.stages[state.stage :]]
        return state.stage_start + int(left * shares[0] // sum(shares))

    def _run_stage(self, number: int, deadline: Deadline) -> None:
        with lone_values_allowed(self.model, self.options.note):
            self._carry_out(number, deadline)

    def _carry_out(self, number: int, deadline: Deadline) -> None:
        stage = self.stages[number]
        if self.state.done == self.state.stage_start:
            self.watch.begin_stage()
        torch.manual_seed(seed_of(self.context.config.seed, number))
        stage.begin(self.model, self.context)
        optimizer = build_optimizer(stage, self.model, self.training)
        if self._restored is not None:
            self._restore(stage, optimizer, self._restored)
            self._restored = None
        passes = Passes(self.model, stage, optimizer, self.context.config.seed)
        if self._candidates and self.state.precision is None and self.state.done == 0:
            self._choose_precision(passes)
            self._checkpoint(deadline)  # or a kill before the next one might change the choice
        if self.training.compile:
            self.model.compile()
        if self.state.done == 0 and self.options.memory_budget_bytes is not None:
            self._fit_memory(passes, self.options.memory_budget_bytes)
        with _compiler_errors(self.training.compile):
            self._steps(passes, deadline)
        self.state = replace(self.state, stage=number + 1, stage_start=self.state.done)
        self._write_start(number + 1)
        self._checkpoint(deadline)

    def _restore(
        self, stage: Stage, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
    ) -> None:
        self.precision.load_state(self.state.scaler)
        if not tensors:
            return  # written between two stages
        device = self.context.device
        self.model.load_state_dict(under("student", tensors))
        load_optimizer_tensors(optimizer, under("optimizer", tensors))
        stage.load_state({n: t.to(device) for n, t in under("stage", tensors).items()})

    def _steps(self, passes: Passes, deadline: Deadline) -> None:
        stage, optimizer = passes.stage, passes.optimizer
        workers = min(MAX_LOADERS, max(1, available_cores() - 1))  # one core is for the steps
        depth = workers + 2 if self.context.device.type == "cuda" else 0
        prefetcher = Prefetcher(
            self.sampler.batch, self.state.done, self.training.steps, depth, workers
        )
        with closing(prefetcher) as batches:
            for batch in batches:
                if self.state.done >= self._end_of_stage() or deadline.passed:
                    break
                losses = self._step(passes, batch.to(self.context.device))
                done = self.state.done + 1
                planned = deadline.plan(done, self.state.planned_steps)
                self.state = replace(self.state, done=done, planned_steps=planned)
                self._write_history(stage, optimizer, losses)
                self._report(stage, losses, deadline)
                self.watch.look(done)
                if self.watch.stopped:
                    break
                if self.options.stop_requested():
                    self._checkpoint(deadline, stage, optimizer)
                    raise RunInterrupted(
                        f"Stopped after step {done}; the same command with --resume goes on from "
                        "there."
                    )
                if time.monotonic() - self._last_checkpoint >= self.options.checkpoint_every_s:
                    self._checkpoint(deadline, stage, optimizer)

    def _write_history(
        self, stage: Stage, optimizer: torch.optim.Optimizer, losses: dict[str, float]
    ) -> None:
        """One line of JSON; a loss that is not finite is null there."""
        line = {
            "stage": stage.name,
            "step": self.state.done,
            "losses": {name: value if is_finite(value) else None for name, value in losses.items()},
            "lr": optimizer.param_groups[0]["lr"],
        }
        path = self.context.workdir / HISTORY
        with output_errors(path), path.open("ab") as file:
            file.write(json.dumps(line, allow_nan=False).encode() + b"\n")

    def _checkpoint(
        self,
        deadline: Deadline,
        stage: Stage | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        path, size = self.context.workdir / HISTORY, 0
        if path.exists():
            with output_errors(path):
                flush(path)  # or a power cut could leave fewer lines than the checkpoint counts
                size = path.stat().st_size
        self.state = replace(
            self.state,
            elapsed_s=deadline.elapsed_s,
            history_bytes=size,
            scaler=self.precision.state(),
            watch=self.watch.state(),
        )
        tensors: dict[str, Tensor] = {}
        if stage is not None and optimizer is not None:
            tensors = {
                **prefixed("student", self.model.state_dict()),
                **prefixed("optimizer", optimizer_tensors(optimizer)),
                **prefixed("stage", stage.state()),
            }
        save_checkpoint(self.context.workdir / CHECKPOINT, tensors, self.state)
        self.watch.tidy()
        self._last_checkpoint = time.monotonic()

    def _report(self, stage: Stage, losses: dict[str, float], deadline: Deadline) -> None:
        done, planned = self.state.done, self.state.planned_steps
        rate = deadline.steps_per_s(done)
        eta = (planned - done) / rate if rate else 0.0
        self.options.report(Progress(stage.name, done, planned, rate, eta, losses))

    # --- one step -------------------------------------------------------------------------------

    def _step(self, passes: Passes, batch: Batch) -> dict[str, float]:
        """One optimiser step on ``batch``; skipped, with everything put back, if not finite."""
        optimizer, state = passes.optimizer, self.state
        factor = learning_rate_factor(state.done, state.planned_steps, self.training)
        for group in optimizer.param_groups:
            group["lr"] = self.training.lr * group["factor"] * factor
        with passes.undo_forward() as undo:
            losses, finite = passes.backward(batch, state.done, state.micro_batch, self.precision)
            norm = self.precision.unscale_and_clip(
                optimizer, passes.parameters, self.training.max_grad_norm
            )
            if finite and bool(torch.isfinite(norm)):
                self.watch.add_norm(self.state.done + 1, float(norm))
                self.precision.step(optimizer)
                passes.stage.after_step()
                self.state = replace(self.state, bad_streak=0)
            else:
                undo()
                self.precision.skip()
                self._count_bad_step(losses)
        passes.zero_gradients()
        return losses

    def _count_bad_step(self, losses: dict[str, float]) -> None:
        streak, skipped = self.state.bad_streak + 1, self.state.skipped_steps + 1
        self.state = replace(self.state, bad_streak=streak, skipped_steps=skipped)
        if not all(map(is_finite, losses.values())):
            bad = ", ".join(n for n, value in losses.items() if not is_finite(value))
            what = f"loss not finite ({bad})"
        else:
            what = "gradient not finite"
        self.options.note(f"step {self.state.done + 1} skipped: {what}")
        if streak >= self.training.max_bad_steps and not self.precision.still_searching:
            raise TrainingError(
                f"{streak} steps in a row were thrown away, the last because of: {what}; "
                "lower training.lr, set training.amp=off, or look at the frames."
            )

    # --- before the first step ------------------------------------------------------------------

    def _choose_precision(self, passes: Passes) -> None:
        """Float32, or what pays here; on the micro-batch that float32 has room for."""
        device, micro = self.context.device, self.state.micro_batch
        batch = self.sampler.batch(0).to(device)
        if self.options.memory_budget_bytes is not None:
            room = self._room(passes, self.options.memory_budget_bytes)
            micro, _ = largest_micro_batch(passes, batch, micro, Precision("fp32", device), room)
        measured = dict.fromkeys(("fp32", *self._candidates), NO_ROOM)
        if micro:
            part = batch.part(0, micro)
            measured = measure_precisions(passes, part, self._candidates, device)
        chosen = choose_precision(measured)
        self.options.note(describe_choice(measured, chosen))
        self.precision = Precision(chosen, device)
        self.state = replace(
            self.state,
            precision=chosen,
            precision_measured={name: asdict(found) for name, found in measured.items()},
        )

    def _fit_memory(self, passes: Passes, budget: int) -> None:
        """Find the largest micro-batch whose step stays below ``budget`` bytes, by trying."""
        device, room = self.context.device, self._room(passes, budget)
        batch = self.sampler.batch(0).to(device)
        precision = Precision(self.precision.name, device)
        micro, peak = largest_micro_batch(passes, batch, self.state.micro_batch, precision, room)
        if not micro:
            raise TrainingError(
                f"one frame at a time needs {peak.mib:.0f} MiB, and --memory-budget leaves "
                f"{room / 2**20:.0f} MiB for it; lower training.crop_size or use a smaller "
                "network."
            )
        self.options.note(f"micro-batch {micro}: a step peaks at {peak.mib:.0f} MiB")
        self.state = replace(self.state, micro_batch=micro)

    @staticmethod
    def _room(passes: Passes, budget: int) -> int:
        return budget - optimizer_bytes(passes.optimizer)


def to_memory_format(model: nn.Module, training: TrainingConfig) -> None:
    """Channels-last weights where the settings ask for it."""
    if training.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
