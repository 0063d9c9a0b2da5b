"""The trainer: runs a method's stages, and owns everything that is not the method.

Mixed precision, schedule, accumulation, bad losses, checkpoints, signals, budgets, progress.
A run that is killed at any moment and resumed ends with the weights of one that never was, bit for
bit on a CPU: every random draw comes from (seed, step), and a checkpoint holds all that changes.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor

from ...runtime.arguments import ProgressUpdate
from ...runtime.errors import RunInterrupted, Sentence, arg
from ...runtime.probes.memory import give_back_unused
from ...runtime.probes.waiting import waiting
from ..data.context import Context
from ..data.dataset import Batch, CropSampler
from ..data.prefetching import batches_of
from ..judging.watch import Watch
from ..methods.base import Stage, prefixed, under
from ..networks import SegmentationNetwork
from ..networks.batch_norm import batch_norm_layers
from ..networks.batch_norm_of_one import lone_values_allowed
from ..networks.ema import interpolate_weights
from ..run.budget import peak_memory
from ..run.checkpoint import RunState, read_tensors, take_back, write_tensors
from ..run.core_sharing import crowded_s
from ..run.options import RunOptions, RunSummary
from ..run.precision import Precision, native_precisions
from ..run.work import OutOfTimeError
from ..scoring.statistics_share import StatisticsShare
from .batch_norm_statistics import BatchNormStatistics
from .compiling import compiler_errors
from .few_steps import FewSteps
from .first_step import choose_precision, fit_memory
from .forward_backward import Passes, seed_of
from .low_rank import end_changes, learned_tensors, load_learned_tensors
from .memory_fit import changes_by_micro_batch
from .negative_learning import NegativeLearning
from .optimisation import build_optimizer
from .precision_benchmark import MEASURED_FROM
from .run_files import RunFiles
from .stage_schedule import (
    check_learned,
    end_of_stage,
    enough_prepared,
    leave_steps_out,
    resumed_precision,
    steps_of_those_left,
)
from .step import take_step
from .step_clock import StepClock
from .time_allocation import PREPARATION, STATISTICS, WARM_START, WARM_START_OF_PATIENCE


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
        self.deadline, self.events = context.work.deadline, context.events
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
            context.fingerprint,
            planned_steps=steps,
            micro_batch=self.training.micro_batch or self.training.batch_size,
        )
        self.statistics = BatchNormStatistics(model, context)
        self.watch = Watch(
            model,
            context,
            context.workspace.stage_start(0),
            self.state.planned_steps,
            own_statistics=lambda: self.statistics.at_the_end,
        )
        self.clock = StepClock(model, context, options.patience_s)
        self.few = FewSteps(context)
        self.files = RunFiles(context.workspace)
        self._restored: dict[str, Tensor] | None = None

    def run(self) -> RunSummary:
        """Warm start, stages, the best step that was looked at, interpolation, clean statistics.

        The interpolation keeps ``weight_interpolation`` of the way from the weights after the warm
        start to those after the last stage (Wortsman et al., CVPR 2022, arXiv:2109.01903).

        Raises:
            TrainingError: losses stay non-finite, no step of all could be kept, or the memory
                budget cannot be met.
            RunInterrupted: a signal came; a checkpoint was written.
            OutputError: a checkpoint cannot be written.
        """
        crowded_before_s = crowded_s()
        with peak_memory(self.context.device) as peak:
            self._train()
            layers = self._select()
        return RunSummary(
            steps=0 if self.few.found else self.state.done,
            skipped_steps=self.state.skipped_steps,
            seconds=self.deadline.elapsed_s,
            peak_memory_mib=peak.mib,
            micro_batch=self.state.micro_batch,
            precision=self.precision.name,
            precision_measured=self.state.precision_measured,
            losses=self.context.losses,
            batch_norm_layers=layers or len(batch_norm_layers(self.model)),
            statistics_share=self.state.statistics_share,
            statistics_why=self.statistics.why,
            start_why=self.few.why,
            micro_batch_changes=self._micro_batch_changes(),
            threads=torch.get_num_threads(),
            waiting=waiting(),
            crowded_s=round(max(0.0, crowded_s() - crowded_before_s), 3),
            watch=self.watch.record(),
        )

    def _train(self) -> None:
        """Warm start, or what a stopped run had reached, and the stages."""
        began = self._resume()
        self.clock.time_the_network()
        if not began:
            self._begin()
        start = self.context.workspace.stage_start(self.state.stage)
        with self.deadline.timing_weights():
            weights, _ = read_tensors(start)
        self.clock.keep_back_the_end(self.statistics.at_the_end)
        self.watch.begin()
        with take_back(start):
            self.model.load_state_dict(weights)
        with lone_values_allowed(self.model, self.events.note):
            for number in range(self.state.stage, len(self.stages)):
                if self.watch.stopped or self.few.found or not self._run_stage(number):
                    break
        check_learned(self.state)

    def _select(self) -> int:
        """The best step looked at, interpolation, clean statistics; counts layers with new ones."""
        self.deadline.begin_end()
        give_back_unused()  # what the steps had, before statistics and judging take their own
        if self.deadline.bounded and self.state.planned_steps and not self.state.done:
            self.few.say_no_step(self.state.statistics_share)
            return 0
        if not self.watch.stopped and self.few.look(self.state.done):
            self.few.say(self.state.statistics_share)
            self.model.load_state_dict(read_tensors(self.context.workspace.stage_start(0))[0])
            return 0
        self.watch.finish(self.state.done, self.state.planned_steps)
        if not self.stages:
            return 0
        kept = self.context.config.weight_interpolation
        if kept < 1:
            start, _ = read_tensors(self.context.workspace.stage_start(0))
            interpolate_weights(self.model, start, kept)
        if not self.statistics.at_the_end:
            return 0
        with self.deadline.part(STATISTICS):
            return self.statistics.finish()

    # --- start ----------------------------------------------------------------------------------

    def _resume(self) -> bool:
        """Take up the run that was stopped, if there is one."""
        kept = self.files.load(self.context.fingerprint) if self.options.resume else None
        if kept is None:
            return False
        self._restored, state = kept
        self.state, self.deadline.before_s = state, state.elapsed_s
        if state.precision is not None:
            self.precision = resumed_precision(
                state.precision, self.context.device, self.context.workdir
            )
        known = state.statistics_share
        self._share_is(None if known is None else StatisticsShare(known, state.statistics_why))
        with take_back(self.context.workspace.checkpoint):
            self.watch.load_state(state.watch)
        self.events.note(f"resuming after step {state.done}")
        return True

    def _begin(self) -> None:
        """Warm start, and the first checkpoint."""
        self.files.begin()
        with self.deadline.part(WARM_START, of_patience=WARM_START_OF_PATIENCE):
            self.statistics.warm_start()
        stages = self.stages
        self._share_is(self.statistics.share)
        self.state = leave_steps_out(self.state, stages, self.stages, self.events.note)
        for change in self._micro_batch_changes():  # a user's own choice, which may not be meant
            self.events.note(f"training.micro_batch={self.state.micro_batch}: {change}")
        self._write_start(0)
        self._checkpoint()

    def _share_is(self, share: StatisticsShare | None) -> None:
        """Tell all who ask what the start took of the target's statistics."""
        self.statistics.share = share
        before = self.stages
        if self.statistics.frozen:
            self.stages = [stage for stage in self.stages if stage.when_frozen]
        if before:
            self.few.asked = steps_of_those_left(self.training.steps, before, self.stages)
        if self.statistics.frozen or not self.statistics.carries:
            lr = self.training.frozen_lr or self.training.lr
            self.training = self.training.model_copy(update={"lr": lr})
        if share is not None:
            self.state = replace(self.state, statistics_share=share.value, statistics_why=share.why)
            self.context = replace(self.context, statistics_share=share.value)

    def _write_start(self, stage: int) -> None:
        """The model at the beginning of a stage: teachers are made from it, also after a resume."""
        with self.deadline.timing_weights():
            write_tensors(self.context.workspace.stage_start(stage), self.model.state_dict())

    # --- stages ---------------------------------------------------------------------------------

    def _run_stage(self, number: int) -> bool:
        """Prepare a stage and take its steps; tell whether there was time to begin it."""
        stage = self.stages[number]
        if self.deadline.passed:
            if self._restored:  # what was learnt before the run was stopped
                self.model.load_state_dict(under("student", self._restored))
            elif end_of_stage(self.state, self.stages) > self.state.done:
                self.events.note(f"the time budget is spent: {stage.name} is left out")
            return False
        at_start = self.state.done == self.state.stage_start
        if at_start:
            self.watch.begin_stage()
        torch.manual_seed(seed_of(self.context.config.seed, number))
        passes = self._prepare(number)
        if passes is None:
            return False
        if self._candidates and self.state.precision is None and self.state.done == 0:
            self._choose_precision(passes)
            self._checkpoint()  # or a kill before the next one might change the choice
        if self.training.compile:
            self.model.compile()
        budget = self.options.memory_budget_bytes
        if at_start and budget is not None:
            self._fit_memory(passes, budget)
        with compiler_errors(self.training.compile):
            self._steps(passes)
        end_changes(passes.optimizer)
        self.state = replace(self.state, stage=number + 1, stage_start=self.state.done)
        self._write_start(number + 1)
        self._checkpoint()
        return True

    def _prepare(self, number: int) -> Passes | None:
        """Begin a stage, for as many frames as its time allows; None if they are too few."""
        stage, frames = self.stages[number], self.context.prepared
        kept, count = self.context.workspace.stage_frames(number), len(self.context.frames)
        frames.begin(kept, settled=bool(self._restored))
        share = PREPARATION * stage.share / sum(later.share for later in self.stages[number:])
        with (
            self.deadline.part(share, of_patience=share),
            self.context.work.phase(f"preparing {stage.name}"),
        ):
            try:
                stage.begin(self.model, self.context)
                self.statistics.freeze()
                seed = seed_of(self.context.config.seed, number)
                once = self.context.note_once
                optimizer = build_optimizer(stage, self.model, self.training, seed, once)
                if self._restored is not None:
                    self._restore(stage, optimizer, self._restored)
                    self._restored = None
                stage.prepare()
            except OutOfTimeError:
                frames.chosen = []
        chosen, time, note = frames.of(count), self.deadline.name, self.events.note
        if not enough_prepared(stage.name, len(chosen), count, time, note):
            return None
        frames.settle(kept)
        self.sampler.draw_from(stage.streams(chosen), stage.crop_condition())
        negative = NegativeLearning.asked_for(self.model, self.context)
        return Passes(self.model, stage, optimizer, self.context.config.seed, negative)

    def _restore(
        self, stage: Stage, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
    ) -> None:
        self.precision.load_state(self.state.scaler)
        if not tensors:
            return  # written between two stages
        device = self.context.device
        with take_back(self.context.workspace.checkpoint):
            self.model.load_state_dict(under("student", tensors))
            load_learned_tensors(optimizer, under("optimizer", tensors))
            stage.load_state({n: t.to(device) for n, t in under("stage", tensors).items()})

    def _steps(self, passes: Passes) -> None:
        stage, optimizer, device = passes.stage, passes.optimizer, self.context.device
        ahead = batches_of(self.sampler.batch, self.state.done, self.training.steps, device)
        with closing(ahead) as batches:
            self.clock.begin_steps()
            for batch in batches:
                over = self.state.done >= end_of_stage(self.state, self.stages)
                if over or not self.clock.has_time:
                    break
                losses, self.state = take_step(
                    passes,
                    batch.to(device),
                    self.state,
                    self.training,
                    self.precision,
                    self.watch,
                    self.events.note,
                )
                done = self.state.done + 1
                planned = self.clock.planned(done, self.state.planned_steps)
                self.state = replace(self.state, done=done, planned_steps=planned)
                self.files.append(stage.name, done, losses, optimizer.param_groups[0]["lr"])
                pace = self.clock.step_done(done, planned)
                update = ProgressUpdate(stage.name, "steps", done, planned, *pace, losses)
                self.events.report(update)
                self.watch.look(done)
                if self.watch.stopped or self.few.look(planned):
                    break
                if self.events.stop_requested():
                    self._checkpoint(stage, optimizer)
                    raise RunInterrupted(
                        f"Stopped after step {done}; the same command with "
                        f"{arg('resume', True)} goes on from there."
                    )
                if self.files.age_s >= self.options.checkpoint_every_s:
                    self._checkpoint(stage, optimizer)

    def _checkpoint(
        self, stage: Stage | None = None, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        tensors: dict[str, Tensor] = {}
        if stage is not None and optimizer is not None:
            tensors = {
                **prefixed("student", self.model.state_dict()),
                **prefixed("optimizer", learned_tensors(optimizer)),
                **prefixed("stage", stage.state()),
            }
        state = replace(
            self.state,
            elapsed_s=self.deadline.elapsed_s,
            scaler=self.precision.state(),
            watch=self.watch.state(),
        )
        self.state = self.files.save(tensors, state)
        self.watch.tidy()

    # --- before the first step ------------------------------------------------------------------

    def _choose_precision(self, passes: Passes) -> None:
        chosen, measured = choose_precision(
            passes,
            self._first_batch(),
            self.state.micro_batch,
            self._candidates,
            self.options.memory_budget_bytes,
            self.context.work,
            due=lambda: self.clock.due,
        )
        self.precision = Precision(chosen, self.context.device)
        self.state = replace(self.state, precision=chosen, precision_measured=measured)

    def _fit_memory(self, passes: Passes, budget: int) -> None:
        precision, work = self.precision.name, self.context.work
        batch, before = self._first_batch(), self.state.micro_batch
        micro = fit_memory(passes, batch, before, precision, budget, work)
        if micro != before:
            self.state = replace(self.state, micro_batch=micro)
            for change in self._micro_batch_changes():
                self.events.note(Sentence(f"because of {arg('memory_budget_mib')} {change}"))
        self._checkpoint()  # or a kill before the next one might change the micro-batch

    def _first_batch(self) -> Batch:
        return self.sampler.batch(0).to(self.context.device)

    def _micro_batch_changes(self) -> list[str]:
        sizes = self.state.micro_batch, self.training.batch_size
        frozen = self.statistics.frozen
        return changes_by_micro_batch(self.stages, self.model, *sizes, frozen=frozen)
