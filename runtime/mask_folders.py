"""Camera pictures told from the label maps, depth maps and overlays that lie among or beside them.

Three kinds of evidence, cheapest first. *Layout*: a folder named for label maps beside one named
for pictures, and the layouts of the papers; such label maps are never opened. *Names*: files with
the stems of pictures elsewhere, whose folders or names differ from theirs by a word for label maps.
*Content*: a few files of each remaining kind are looked at. Where names and content disagree, or
content alone speaks, without pictures of the same names, nothing is guessed: that is a `FrameError`
which says how to choose.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath

from . import mask_names as names
from .errors import FrameError
from .mask_content import Content, content_of

# Label files that lie beside images: *_gtFine_labelIds.png, *_gtCoarse_color.png, *_gt_invIds.png
_LABEL_STEM = re.compile(r"_gt(Fine|Coarse)?_[A-Za-z0-9]+$|_label(Train)?Ids$")
_LIGHT_FOG = re.compile(r"_foggy_beta_0\.(005|01)$")
_ONLY = ("leftImg8bit", "leftImg8bit_foggy", "rgb_anon")  # labels and disparity lie beside
_LABELS_BESIDE = {"images": "labels", "Images": "Labels"}
_SAMPLED_STEMS = 64


@dataclass
class Separation:
    """The camera pictures of a folder, and the files left out.

    ``left_out`` counts the files by the folder or the ending that tells them; ``remark`` is a
    sentence about pictures that were taken although they look drawn.
    """

    pictures: list[PurePath]
    left_out: Counter[str] = field(default_factory=Counter)
    remark: str | None = None


@dataclass
class _Kind:
    """Files that are alike: folders of one pattern, the same words for their kind, one suffix.

    Paths are relative to the folder that is read.
    """

    folder: PurePath  # of the first file
    marks: tuple[str, ...]
    suffix: str
    files: list[PurePath]
    root: Path

    @cached_property
    def words(self) -> Counter[str]:
        return Counter(w for part in self.folder.parts for w in names.words(part)) + Counter(
            self.marks
        )

    @cached_property
    def content(self) -> Content:
        suspected = names.name_says_mask(self.words)
        return content_of([self.root / file for file in self.files], suspected=suspected)

    @cached_property
    def stems(self) -> frozenset[tuple[str, ...]]:
        """What the names say without the words of the kind; empty ones tell nothing."""
        return frozenset(k for file in self.files if (k := names.stem_keys(file.stem).plain))

    @cached_property
    def title(self) -> str:
        """The folder that tells the kind, with the ending of the names where those do."""
        parts = self.folder.parts
        telling = [i for i, part in enumerate(parts) if names.name_says_mask(names.words(part))]
        folder = PurePath(*parts[: telling[0] + 1]) if telling else self.folder
        start = "" if folder == PurePath() else f"{folder}/"
        own = [word for word in self.marks if names.is_mask_word(word)] or list(self.marks)
        if telling or not own:
            return start if start and self.marks == () else f"{start}*{self.suffix}"
        return f"{start}*{'_'.join(own)}*{self.suffix}"

    def share_with(self, others: Iterable[_Kind]) -> float:
        """Share of the files, of up to 64, that have the name of a file of the others."""
        keys: set[tuple[str, ...]] = set()
        for other in others:
            keys |= other.stems
        if not keys:
            return 0.0
        step = max(1, len(self.files) // _SAMPLED_STEMS)
        sample = [names.stem_keys(file.stem) for file in self.files[::step]]
        return sum(not keys.isdisjoint({k.plain, *k.loose}) for k in sample) / len(sample)


def separate(root: Path, files: Sequence[PurePath]) -> Separation:
    """Take the camera pictures of the picture files below ``root``.

    Args:
        root: the folder that is read.
        files: its picture files, relative to it.

    Raises:
        FrameError: some files may be label maps or pictures, or all are label maps.
    """
    done = Separation([])
    rest = _without_layouts(files, done)
    if not rest and done.left_out:
        raise _only_maps(root, sum(done.left_out.values()))
    kinds = _kinds(root, rest)
    kept = [kind for kind in kinds if not _named_as_maps(kind, kinds, root, done)]
    pictures = _without_maps(kept, root, done)
    done.pictures = _without_references([file for kind in pictures for file in kind.files])
    if left := sum(len(kind.files) for kind in pictures) - len(done.pictures):
        done.left_out["reference images and lighter fogs"] += left
    return done


# ---- layouts ----------------------------------------------------------------------------------


def _without_layouts(files: Sequence[PurePath], done: Separation) -> list[PurePath]:
    """The files that are in no folder which lies beside a folder of pictures, by names alone."""
    children: dict[PurePath, set[str]] = defaultdict(set)
    for folder in {file.parent for file in files}:
        for inner in (folder, *folder.parents):
            if inner.name:
                children[inner.parent].add(inner.name)
    out_of: dict[PurePath, PurePath | None] = {}

    def barred(folder: PurePath) -> PurePath | None:
        """The folder at or above this one that holds no camera pictures."""
        if folder not in out_of:
            if not folder.name:
                out_of[folder] = None
            else:
                above = barred(folder.parent)
                here = _holds_maps(folder.name, children[folder.parent])
                out_of[folder] = above or (folder if here else None)
        return out_of[folder]

    rest = []
    for file in files:
        if bar := barred(file.parent):
            done.left_out[f"{bar}/"] += 1
        elif found := _LABEL_STEM.search(file.stem):
            done.left_out[f"*{found[0]}{file.suffix}"] += 1
        else:
            rest.append(file)
    return rest


def _holds_maps(name: str, siblings: set[str]) -> bool:
    """True of a folder whose name and siblings say that its pictures are no camera's."""
    for only in _ONLY:
        if only in siblings:
            return name != only
    if {"RGB", "GT"} <= siblings:
        return name != "RGB"
    if any(name == _LABELS_BESIDE[sibling] for sibling in siblings & _LABELS_BESIDE.keys()):
        return True
    return names.name_says_mask(names.words(name)) and any(
        names.name_says_picture(names.words(sibling)) for sibling in siblings
    )


def _without_references(files: list[PurePath]) -> list[PurePath]:
    """All but ACDC's references and Foggy Cityscapes' lighter fogs, unless nothing is left."""
    chosen = [
        file
        for file in files
        if not (file.stem.endswith("_rgb_ref_anon") or _LIGHT_FOG.search(file.stem))
    ]
    return chosen or files


# ---- names ------------------------------------------------------------------------------------


def _kinds(root: Path, files: Sequence[PurePath]) -> list[_Kind]:
    """The files by folder without its numbers, by words for the kind in their names, by suffix."""
    found: dict[tuple[object, ...], _Kind] = {}
    pattern: dict[PurePath, tuple[str, ...]] = {}
    for file in files:
        folder = file.parent
        if folder not in pattern:
            pattern[folder] = tuple(re.sub(r"\d+", "#", part) for part in folder.parts)
        marks, suffix = names.marks(file.stem), file.suffix.lower()
        key = (pattern[folder], marks, suffix)
        found.setdefault(key, _Kind(folder, marks, suffix, [], root)).files.append(file)
    return list(found.values())


def _named_as_maps(kind: _Kind, kinds: Sequence[_Kind], root: Path, done: Separation) -> bool:
    """True of files named after pictures, but for a word for label maps; counts them."""
    if not names.name_says_mask(kind.words):
        return False
    pictures = [
        other
        for other in kinds
        if names.name_says_mask((kind.words - other.words).keys())
        and not names.name_says_mask((other.words - kind.words).keys())
    ]
    if kind.share_with(pictures) < 0.5:
        return False
    if kind.content is Content.CAMERA and not names.name_says_derived(kind.words):
        raise _doubt(root, kind, "are named like label maps, and hold pictures")
    done.left_out[kind.title] += len(kind.files)
    return True


# ---- content ----------------------------------------------------------------------------------


def _without_maps(kinds: Sequence[_Kind], root: Path, done: Separation) -> list[_Kind]:
    """The kinds that hold pictures, by what a few of their files show."""
    clear = [kind for kind in kinds if not kind.content.is_map and not _maybe_maps(kind)]
    if not clear:
        return _only_unclear(kinds, root, done)
    pictures = []
    for kind in kinds:
        if _is_picture(kind, clear, root):
            pictures.append(kind)
        else:
            done.left_out[kind.title] += len(kind.files)
    return pictures


def _maybe_maps(kind: _Kind) -> bool:
    return kind.content in (Content.UNCLEAR, Content.UNREADABLE) and names.name_says_mask(
        kind.words
    )


def _is_picture(kind: _Kind, clear: Sequence[_Kind], root: Path) -> bool:
    """True of pictures; false of maps; ``clear`` are the kinds that are no maps."""
    others = [other for other in clear if other is not kind]
    if kind in clear:
        _check_twins(kind, others, root)
        return True
    if names.name_says_mask(kind.words):
        return False
    if kind.content is Content.DEPTH and names.name_says_place(kind.words):
        return True  # a camera of more than eight bits
    if kind.share_with(others) >= 0.5:
        named = [o for o in others if names.name_says_picture((kind.words - o.words).keys())]
        if kind.share_with(named) >= 0.5 and kind.content is Content.IDS:
            raise _doubt(root, kind, "are named like pictures, and look like label maps")
        return False
    raise _doubt(root, kind, "look like label maps, and no picture has their names")


def _check_twins(kind: _Kind, others: Sequence[_Kind], root: Path) -> None:
    """Raise FrameError where pictures may be made from others: same names, and no word says so."""
    cameras = [other for other in others if other.content is Content.CAMERA]
    if kind.content is Content.UNCLEAR:
        mine = {word for other in cameras for word in (kind.words - other.words)}
        if not names.name_says_place(mine) and kind.share_with(cameras) >= 0.5:
            raise _doubt(
                root, kind, "have the names of pictures elsewhere, and could be their maps"
            )
    if kind.content is not Content.CAMERA:
        return
    either = [o for o in cameras if names.name_says_either((kind.words - o.words).keys())]
    if kind.share_with(either) >= 0.5:
        raise _doubt(
            root, kind, "have the names of pictures elsewhere, and could be made from them"
        )
    if _share_beside(kind, [o for o in cameras if o.suffix != kind.suffix]) >= 0.5:
        raise _doubt(
            root, kind, "have the names of pictures beside them, and could be made from them"
        )


def _share_beside(kind: _Kind, others: Sequence[_Kind]) -> float:
    """Share of the files that have a file of the others' with the same stem in their folder."""
    stems = {file.with_suffix("") for other in others for file in other.files}
    return sum(file.with_suffix("") in stems for file in kind.files) / len(kind.files)


def _only_unclear(kinds: Sequence[_Kind], root: Path, done: Separation) -> list[_Kind]:
    """Pictures of a folder in which nothing is clearly a camera's.

    Flat colours, one value everywhere and 16 bits can be pictures: drawn ones, a covered lens, a
    thermal camera. Their names decide, with the name of the folder itself.
    """
    pictures = [kind for kind in kinds if not names.name_says_mask(kind.words)]
    is_maps = names.name_says_mask(_names_of(root)) and kinds
    if is_maps or (len(pictures) < len(kinds) and not pictures) or _any_ids(pictures):
        raise _only_maps(root, sum(len(kind.files) for kind in kinds))
    for kind in kinds:
        if kind not in pictures:
            done.left_out[kind.title] += len(kind.files)
    if drawn := sum(len(k.files) for k in pictures if k.content is Content.COLOURS):
        done.remark = f"{drawn} of them have few flat colours, like drawn pictures or label maps"
    return pictures


def _any_ids(kinds: Sequence[_Kind]) -> bool:
    return any(kind.content is Content.IDS for kind in kinds)


def _names_of(root: Path) -> tuple[str, ...]:
    """The words of the folder's own name; of the one above too where it is a split, ``val``."""
    parts = root.absolute().parts if root.name else root.resolve().parts
    for part in reversed(parts):
        if not names.is_split(part):
            return names.words(part)
    return ()


# ---- refusals ---------------------------------------------------------------------------------


def _only_maps(root: Path, count: int) -> FrameError:
    return FrameError(
        f"{root} holds label maps and no pictures: its {count} picture files have few values, or "
        "names of label maps; give the folder of the camera's pictures, or, if these are the "
        f"frames, the files themselves, for example {root}/*.png."
    )


def _doubt(root: Path, kind: _Kind, why: str) -> FrameError:
    first = root / kind.files[0]
    return FrameError(
        f"{root}: {len(kind.files)} files such as {first} {why}; give the folder of the frames "
        f"alone, or, if these are frames too, the files themselves, for example "
        f"{first.parent}/*{kind.suffix}."
    )
