"""Looks at the frames set aside while a run adapts: stop when it turns, keep the best step.

A look asks the model that would be published if the run stopped now: interpolated with the start
and, where batch norm is re-estimated at the end, normalised with the frames' own statistics. It is
compared with the model after the warm start, looked at in the same way. Nothing of the run moves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from ...runtime.errors import FrameError
from ...runtime.spacing import evenly_spaced
from ...runtime.words import counted
from ..data.context import Context
from ..data.frame_set import FrameSet
from ..losses.common import at_least_float32
from ..methods.base import prefixed, under
from ..networks import SegmentationNetwork
from ..networks.ema import interpolate_weights, restore, snapshot
from ..networks.modes import evaluating
from ..run.checkpoint import read_tensors, write_tensors
from .gradient_norms import GradientNorms
from .validation import Look, PredictionSummary, clearly_better, judged

FRAMES = 8  # of those set aside, evenly spaced: enough to see a class vanish, and cheap
BATCH = 4  # frames at most that are normalised together, and never one alone
LOOKS = 0.1  # of the time that is left: without so much for a look there is none
IN_A_ROW = 2  # looks with an alarm that stop a run: a single one may pass


_LOOK = TypeAdapter(Look)


class Watch:
    """The looks of one run; idle unless frames are set aside and ``watch.every`` is not 0.

    Args:
        model: the run's; every look leaves it as it was.
        context: the run's.
        start: file of the model after the warm start.
        steps: of the whole run; 0 if nothing is learnt.
        own_statistics: whether the run ends with batch norm's statistics of its frames.
    """

    def __init__(
        self,
        model: SegmentationNetwork,
        context: Context,
        start: Path,
        steps: int,
        own_statistics: Callable[[], bool] = lambda: False,
    ) -> None:
        self._own_statistics = own_statistics
        self._model, self._context, self._start = model, context, start
        self._every = context.config.watch.steps_between(steps) if steps else 0
        self._frames: FrameSet | None = None
        if context.held is not None and self._every:
            self._frames = context.held.only(evenly_spaced(len(context.held), FRAMES))
        self._gradients = GradientNorms()
        self._looks: list[Look] = []
        self._alarms: list[tuple[int, str]] = []
        self._kept, self._stopped_early, self._seconds = 0, False, 0.0

    @property
    def stopped(self) -> bool:
        """Tell whether the run is to end: each of the last `IN_A_ROW` looks gave an alarm."""
        last = self._looks[-IN_A_ROW:]
        return len(last) == IN_A_ROW and all(look.alarms for look in last)

    def begin(self) -> None:
        """Look at the model after the warm start, loaded here; also when a run is resumed.

        Frames that cannot be read are left out; with fewer than two there is no watch.
        """
        self._frames = self._readable()
        if self._frames is None:
            return
        with self._context.work.deadline.part(LOOKS):
            if not self._context.work.deadline.has_time_for(len(self._frames)):
                self._context.note("no looks at the frames set aside: the time budget is too short")
                self._frames = None
                return
        with self._timed():
            self._model.load_state_dict(read_tensors(self._start)[0])
            self._reference = self._see()
        if not self._looks:
            self._add(0, self._reference)

    def begin_stage(self) -> None:
        """Start the norms anew: another stage has other losses, and gradients of another size."""
        self._gradients = GradientNorms()

    def add_norm(self, step: int, norm: float) -> None:
        """Take the norm of a step's gradient."""
        if self._frames is not None and (sentence := self._gradients.add(norm)):
            self._alarm(step, sentence)

    def look(self, step: int) -> None:
        """Look at the model if it is time to; keep its weights if it is the best so far."""
        if self._frames is None or step % self._every:
            return
        with self._timed():
            seen, best = self._see(), self._best()
            look = self._add(step, seen)
            if self._best() is not best:
                frames = {"p": seen.p, "entropy": seen.entropy}
                tensors = prefixed("model", self._model.state_dict()) | prefixed("frames", frames)
                write_tensors(self._snapshot(look), tensors)

    def finish(self, step: int, planned: int) -> None:
        """Look at the model after the last step, and give it the best step's weights.

        Args:
            step: the last one taken, of ``planned``.
        """
        if self._frames is None:
            return
        self._stopped_early = self.stopped and step < planned
        with self._timed():
            seen = self._see()
            last = self._looks[-1] if self._looks[-1].step == step else self._add(step, seen)
            kept = self._preferred(last, seen)
            if kept is not last:
                self._model.load_state_dict(self._weights(kept))
        self._kept = kept.step
        if kept is not last:
            self._context.note(self._reason(kept, last))
        self._context.note(
            f"looked {counted(len(self._looks), 'time')} at "
            f"{counted(len(self._frames), 'frame')} set aside, in "
            f"{self._seconds:.1f} s"
        )

    def record(self) -> dict[str, Any] | None:
        """JSON values of all looks, for the manifest; None if there was nothing to look at."""
        if self._frames is None:
            return None
        return {
            "every": self._every,  # steps
            "frames": len(self._frames),  # looked at each time
            "looks": [look.record() for look in self._looks],
            "alarms": [{"step": step, "sentence": sentence} for step, sentence in self._alarms],
            "kept_step": self._kept,  # whose weights are the result
            "stopped_early": self._stopped_early,
            "seconds": round(self._seconds, 3),  # that the looks took
        }

    # --- a look ---------------------------------------------------------------------------------

    def _readable(self) -> FrameSet | None:
        if self._frames is None:
            return None
        fine = []
        for i in range(len(self._frames)):
            try:
                self._frames.image(i)
            except FrameError as error:  # noqa: PERF203 - the others are looked at
                self._context.note(f"left out of the watch: {error}")
            else:
                fine.append(i)
        return self._frames.only(fine) if len(fine) > 1 else None

    @torch.no_grad()
    def _see(self) -> PredictionSummary:
        """Ask the model that the run would publish now about the frames set aside."""
        assert self._frames is not None
        config, count = self._context.config, len(self._frames)
        own = self._own_statistics()
        parts = []
        with (
            self._interpolated(config.weight_interpolation),
            evaluating(self._model, own_statistics=own),
        ):
            for indices in np.array_split(np.arange(count), math.ceil(count / BATCH)):
                images = np.stack([self._frames.image(int(i)) for i in indices])
                inputs = torch.from_numpy(images).to(self._context.device)
                # not model(): torch.compile would compile a pass of its own
                logits = self._model.forward(self._context.normalise(inputs)).logits
                parts.append(PredictionSummary.of(at_least_float32(logits)))
        return PredictionSummary(*(torch.cat(values) for values in zip(*parts, strict=True)))

    @contextmanager
    def _interpolated(self, share: float) -> Iterator[None]:
        """The parameters as a run that ends now would interpolate them, and back afterwards."""
        parameters: list[Tensor] = list(self._model.parameters()) if share < 1 else []
        copies = snapshot(parameters)
        try:
            if parameters:
                interpolate_weights(self._model, read_tensors(self._start)[0], share)
            yield
        finally:
            restore(parameters, copies)

    def _add(self, step: int, seen: PredictionSummary) -> Look:
        names = self._context.classes or [f"class {i}" for i in range(seen.p.shape[1])]
        dead = ["the gradient is dead since it exploded"] if self._gradients.dead else []
        look = judged(step, seen, self._reference, names)
        look = replace(look, alarms=[*look.alarms, *dead])
        self._looks.append(look)
        for sentence in look.alarms:
            self._alarm(step, sentence)
        return look

    def _alarm(self, step: int, sentence: str) -> None:
        self._alarms.append((step, sentence))
        self._context.note(f"step {step}: {sentence}")

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.monotonic()
        with self._context.work.phase("looking at frames set aside"):
            yield
        self._seconds += time.monotonic() - start

    # --- which step is kept ---------------------------------------------------------------------

    def _best(self) -> Look:
        """The look of most information among those without alarm; the first if there is none."""
        good = [look for look in self._looks if not look.alarms]
        return max(good or self._looks[:1], key=lambda look: look.information)

    def _preferred(self, last: Look, seen: PredictionSummary) -> Look:
        """The last look, unless it gave an alarm or the best one is clearly better."""
        best = self._best()
        if best is last or last.alarms:
            return best
        frames = {"p": seen.p, "entropy": seen.entropy}
        return best if clearly_better(self._frames_of(best), frames) else last

    def _reason(self, kept: Look, last: Look) -> str:
        what = f"the weights of step {kept.step}" if kept.step else "the warm start's weights"
        if not last.alarms:
            return (
                f"kept {what}, not the last ones: more information ({kept.information:.2f} against "
                f"{last.information:.2f} nats) in more diverse predictions"
            )
        end = "stopped early at" if self._stopped_early else "at the last"
        return f"{end} step {last.step}: {'; '.join(last.alarms)}; kept {what}"

    def _snapshot(self, look: Look) -> Path:
        return self._context.workspace.look(look.step)

    def _weights(self, look: Look) -> dict[str, Tensor]:
        if look.step == 0:
            return read_tensors(self._start)[0]
        return under("model", read_tensors(self._snapshot(look))[0])

    def _frames_of(self, look: Look) -> dict[str, Tensor]:
        if look.step == 0:
            return {"p": self._reference.p, "entropy": self._reference.entropy}
        return under("frames", read_tensors(self._snapshot(look))[0])

    # --- checkpoints ----------------------------------------------------------------------------

    def state(self) -> dict[str, Any] | None:
        """State for a checkpoint; the best step's weights are in the run's folder."""
        if self._frames is None:
            return None
        return {
            "looks": [vars(look) for look in self._looks],
            "alarms": self._alarms,
            "gradients": self._gradients.state(),
            "seconds": self._seconds,
        }

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        """Take back what `state` gave."""
        if state is None:
            return
        self._looks = [_LOOK.validate_python(look) for look in state["looks"]]
        self._alarms = [(int(step), str(sentence)) for step, sentence in state["alarms"]]
        self._gradients.load_state(state["gradients"])
        self._seconds = float(state["seconds"])

    def tidy(self) -> None:
        """Remove snapshots that the checkpoint just written does not need."""
        needed = self._snapshot(self._best()) if self._looks else None
        for path in self._context.workspace.looks():
            if path != needed:
                path.unlink()
