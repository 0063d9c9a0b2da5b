"""Source models that only answer: folders, files, services and functions; the students' options."""

from .base import Answer, BlackBox, BoxWiring, Holds, checked_answer
from .registry import open_black_box, source_name
from .student import Student, resolve_student

__all__ = [
    "Answer",
    "BlackBox",
    "BoxWiring",
    "Holds",
    "Student",
    "checked_answer",
    "open_black_box",
    "resolve_student",
    "source_name",
]
