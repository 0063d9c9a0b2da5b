"""Files of a folder in kinds: alike by folder, by the words of their names, by suffix."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from . import mask_names as names
from .mask_content import Content, content_of

_SAMPLED_STEMS = 64


@dataclass(eq=False)
class Kind:
    """Files that are alike: folders of one pattern, the same words for their kind, one suffix.

    Attributes:
        root: the folder that is read.
        files: relative to it.
        marks: the words for their kind in the files' names, see `mask_names.marks`.
    """

    root: Path
    files: list[PurePath]
    marks: tuple[str, ...]

    @property
    def folder(self) -> PurePath:
        """The folder of the first file."""
        return self.files[0].parent

    @property
    def suffix(self) -> str:
        return self.files[0].suffix

    @cached_property
    def words(self) -> frozenset[str]:
        """All words of the folders and of the files' kind."""
        return frozenset(w for part in self.folder.parts for w in names.words(part)).union(
            self.marks
        )

    @cached_property
    def says_maps(self) -> bool:
        return names.name_says_mask(self.words)

    @cached_property
    def content(self) -> Content:
        suspected = self.says_maps or names.name_says_mask(own_words(self.root))
        return content_of([self.root / file for file in self.files], suspected=suspected)

    @cached_property
    def stems(self) -> frozenset[tuple[str, ...]]:
        """The files' names without the words for their kind."""
        return frozenset(names.name_keys(file).plain for file in self.files)

    @cached_property
    def title(self) -> str:
        """The folder that tells the kind, with the words in the names where those do."""
        parts = self.folder.parts
        telling = [i for i, part in enumerate(parts) if names.name_says_mask(names.words(part))]
        folder = PurePath(*parts[: telling[0] + 1]) if telling else self.folder
        start = "" if folder == PurePath() else f"{folder}/"
        own = [word for word in self.marks if names.is_mask_word(word)] or list(self.marks)
        if telling or not own:
            return start if start and not self.marks else f"{start}*{self.suffix}"
        return f"{start}*{'*'.join(own)}*{self.suffix}"

    @cached_property
    def shows_map_jpegs(self) -> bool:
        """True of JPEGs that look like label maps or soft maps; they are decoded for this."""
        files = [self.root / file for file in self.files]
        if self.content is not Content.CAMERA:
            return False
        found = content_of(files, suspected=True)
        return found.is_map or found is Content.BLURRED

    def beside(self, other: Kind) -> frozenset[str]:
        """The words that tell this kind from another."""
        return self.words - other.words

    def share_with(self, others: Iterable[Kind]) -> float:
        """Share of the files, of about 64, that have the name of a file of the others."""
        keys: set[tuple[str, ...]] = set()
        for other in others:
            keys |= other.stems
        if not keys:
            return 0.0
        sample = self.files[:: max(1, len(self.files) // _SAMPLED_STEMS)]
        found = [names.name_keys(file) for file in sample]
        return sum(not keys.isdisjoint({k.plain, *k.loose}) for k in found) / len(sample)

    def by_folder(self) -> list[Kind]:
        """The files of each folder as a kind of its own."""
        split: dict[PurePath, list[PurePath]] = {}
        for file in self.files:
            split.setdefault(file.parent, []).append(file)
        return [Kind(self.root, files, self.marks) for files in split.values()]


def kinds_of(root: Path, files: Sequence[PurePath]) -> list[Kind]:
    """The files by folder without its numbers, by words for the kind in their names, by suffix."""
    found: dict[tuple[object, ...], list[PurePath]] = {}
    patterns: dict[PurePath, str] = {}
    for file in files:
        folder = file.parent
        if folder not in patterns:
            patterns[folder] = re.sub(r"\d+", "#", str(folder))
        key = (patterns[folder], names.marks(file.stem), file.suffix.lower())
        found.setdefault(key, []).append(file)
    return [Kind(root, alike, names.marks(alike[0].stem)) for alike in found.values()]


def own_words(root: Path) -> tuple[str, ...]:
    """The words of a folder's own name; of a folder above where it is a split such as ``val``."""
    parts = root.absolute().parts if root.name else root.resolve().parts
    return next((names.words(part) for part in reversed(parts) if not names.is_split(part)), ())
