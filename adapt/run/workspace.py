"""A run's own folder beside its result: the names of all files in it.

The names stay as they are, so that a run which an earlier version began can be resumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...runtime.file_names import beside

RECORD = "run.json"
CHECKPOINT = "checkpoint.safetensors"
HISTORY = "history.jsonl"
PUBLISHED = "published.sha256"
FRAME_INDEX, FRAME_PIXELS = "frames.json", "frames.rgb"
ANSWERS = "answers"

# A folder that holds one of these is a run's, also one of an earlier version.
SIGNS = frozenset({RECORD, CHECKPOINT, PUBLISHED, FRAME_INDEX, FRAME_PIXELS})


@dataclass(frozen=True)
class Workspace:
    """The files of one run, none of them opened or made here.

    Attributes:
        folder: checkpoints, decoded frames, pseudo-labels; survives until the result is published.
    """

    folder: Path

    @classmethod
    def beside(cls, out: Path) -> Workspace:
        """The folder of the run whose result goes to ``out``, which is to have a name."""
        return cls(beside(out, "{}.run"))

    @property
    def record(self) -> Path:
        """Record of the run's request, the first file of all; see `RunRecord`."""
        return self.folder / RECORD

    @property
    def checkpoint(self) -> Path:
        """Weights, optimiser and state of the last checkpoint."""
        return self.folder / CHECKPOINT

    @property
    def history(self) -> Path:
        """One line of JSON a step."""
        return self.folder / HISTORY

    @property
    def published(self) -> Path:
        """The SHA-256 of the weights, once the run is about to publish them."""
        return self.folder / PUBLISHED

    @property
    def tone(self) -> Path:
        """The gamma that the run began with."""
        return self.folder / "tone.json"

    @property
    def held(self) -> Path:
        """File that tells whether frames are set aside to judge on."""
        return self.folder / "held.json"

    @property
    def frame_index(self) -> Path:
        """Names of the decoded frames, and their content's hash."""
        return self.folder / FRAME_INDEX

    @property
    def frame_pixels(self) -> Path:
        """The decoded frames, uint8 (N, H, W, 3) RGB."""
        return self.folder / FRAME_PIXELS

    def stage_start(self, number: int) -> Path:
        """The weights that a stage began with; teachers are made from them, also after a resume."""
        return self.folder / f"stage-{number}.safetensors"

    def stage_frames(self, number: int) -> Path:
        """The frames that a stage was prepared for, where time did not suffice for all."""
        return self.folder / f"stage-{number}.frames.json"

    def look(self, step: int) -> Path:
        """The weights of a look at the frames set aside, after that many steps."""
        return self.folder / f"look-{step:06d}.safetensors"

    def looks(self) -> Iterator[Path]:
        """The files of all looks that are kept."""
        return self.folder.glob("look-*.safetensors")

    def of_teacher(self, what: str, identity: str, suffix: str = "") -> Path:
        """Answers of a frozen teacher about the frames, made once.

        Args:
            what: "pseudo_labels", "soft_labels", "entropies".
            identity: of what it follows from, see `label_identity`.
        """
        return self.folder / f"{what}-{identity}{suffix}"

    @property
    def teacher_logits(self) -> Path:
        """A frozen teacher's logits of all frames, float16, one after the other."""
        return self.folder / "teacher.f16"

    @property
    def teacher_index(self) -> Path:
        """Shape and hash of `teacher_logits`, written once those are whole."""
        return self.folder / "teacher.json"

    @property
    def no_teacher_logits(self) -> Path:
        """A mark that there was no time for `teacher_logits`."""
        return self.folder / "teacher.skipped"

    @property
    def answers(self) -> Path:
        """A folder of what a black box has answered."""
        return self.folder / ANSWERS

    @property
    def has_answers(self) -> bool:
        """Tell whether the folder holds answers of a black box, which a resume does not repeat."""
        return next(self.answers.glob("*.npz"), None) is not None

    @property
    def class_counts(self) -> Path:
        """Pixels of each class in the labels that a source model is trained on."""
        return self.folder / "class_counts.json"

    @property
    def has_begun(self) -> bool:
        """Tell whether the folder holds a run that a resume goes on with."""
        return self.checkpoint.exists() or self.record.exists()

    @property
    def has_steps(self) -> bool:
        """Tell whether the run has written down a step."""
        return self.history.exists() and self.history.stat().st_size > 0
