"""Camera pictures told from the label maps, depth maps and overlays that lie among or beside them.

Three kinds of evidence, cheapest first. *Layout*: a folder named for label maps beside one named
for pictures, and the layouts of the papers; such label maps are never opened. *Names*: files with
the stems of pictures elsewhere, whose folders or names differ from theirs by a word for label maps.
*Content*: a few files of each remaining kind are looked at. Where names and content disagree, or
content alone speaks, without pictures of the same names, nothing is guessed: that is a `FrameError`
which says how to choose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ..errors import FrameError
from . import mask_names as names
from .mask_content import Content
from .mask_layouts import without_layouts, without_references
from .picture_kinds import Kind, kinds_of, own_words

_FEW_KINDS = 64  # each JPEG kind is compared with every other up to here, beyond with none


@dataclass
class Separation:
    """The camera pictures of a folder, and the files left out.

    ``left_out`` counts the files by the folder or the words that tell them; ``remark`` is a phrase
    about pictures that were taken although they look drawn; ``has_recordings``: see `separate`.
    """

    pictures: list[PurePath]
    left_out: Counter[str] = field(default_factory=Counter)
    remark: str | None = None
    has_recordings: bool = False


def separate(root: Path, files: Sequence[PurePath], *, has_recordings: bool = False) -> Separation:
    """Take the camera pictures of the picture files below ``root``.

    Args:
        root: the folder that is read.
        files: its picture files, relative to it.
        has_recordings: it holds videos or bags too; then all pictures may be label maps.

    Raises:
        FrameError: some files may be label maps or pictures, or all are label maps.
    """
    rest, left_out = without_layouts(files)
    if not rest and left_out and not has_recordings:
        raise _only_maps(root, sum(left_out.values()))
    done = Separation([], left_out, has_recordings=has_recordings)
    kinds = kinds_of(root, rest)
    kept = [kind for kind in kinds if not _named_as_maps(kind, kinds, root, done)]
    pictures = _without_maps(_unmixed(kept, root), root, done)
    taken = [file for kind in pictures for file in kind.files]
    done.pictures = without_references(taken)
    if left := len(taken) - len(done.pictures):
        done.left_out["reference images and lighter fogs"] += left
    return done


def separate_videos(files: Sequence[PurePath]) -> Separation:
    """Take the camera's videos: not those named like others but for a word for label maps."""
    kinds = kinds_of(Path(), files)
    done = Separation([])
    for kind in kinds:
        if kind.says_maps and kind.share_with(_without_words(kind, kinds)) >= 0.5:
            done.left_out[kind.title] += len(kind.files)
        else:
            done.pictures += kind.files
    return done


# ---- names ------------------------------------------------------------------------------------


def _without_words(kind: Kind, kinds: Sequence[Kind]) -> list[Kind]:
    """The kinds that lack just the words for label maps that this one has."""
    return [
        other
        for other in kinds
        if names.name_says_mask(kind.beside(other)) and not names.name_says_mask(other.beside(kind))
    ]


def _named_as_maps(kind: Kind, kinds: Sequence[Kind], root: Path, done: Separation) -> bool:
    """True of files named after pictures, but for a word for label maps; counts them."""
    if not kind.says_maps or kind.share_with(_without_words(kind, kinds)) < 0.5:
        return False
    derived = names.name_says_derived(kind.words) or names.name_says_either(kind.words)
    if kind.content in (Content.CAMERA, Content.BLURRED) and not derived:
        if kind.content is Content.BLURRED:
            raise _doubt(root, kind, "are named like label maps, and could be blurred pictures")
        if not names.name_says_only_maps(kind.words):
            return False  # the word means something else here
        raise _doubt(root, kind, "are named like label maps, and hold pictures")
    done.left_out[kind.title] += len(kind.files)
    return True


# ---- content ----------------------------------------------------------------------------------


def _unmixed(kinds: Sequence[Kind], root: Path) -> list[Kind]:
    """The kinds, those of several folders with different content split into their folders."""
    split: list[Kind] = []
    for kind in kinds:
        is_mixed = kind.content in (Content.MIXED, Content.BLURRED)
        split += kind.by_folder() if is_mixed else [kind]
    for kind in split:
        if kind.content is Content.MIXED:
            raise _doubt(root, kind, "are partly pictures and partly look like label maps")
    return split


def _without_maps(kinds: Sequence[Kind], root: Path, done: Separation) -> list[Kind]:
    """The kinds that hold pictures, by what a few of their files show."""
    clear = [kind for kind in kinds if _is_clear(kind)]
    cameras = [kind for kind in clear if kind.content is Content.CAMERA]
    if not cameras:
        return _only_unclear(kinds, root, done)
    for kind in clear:
        _check_not_made_of(kind, cameras, root)
    _check_suffixes(cameras, root)
    pictures = []
    for kind in kinds:
        if kind in clear or not _is_map(kind, clear, root):
            pictures.append(kind)
        else:
            done.left_out[kind.title] += len(kind.files)
    return pictures


def _is_clear(kind: Kind) -> bool:
    """True of pictures, and of what could be pictures and is not named like maps."""
    return kind.content is Content.CAMERA or not (kind.content.is_map or kind.says_maps)


def _is_map(kind: Kind, clear: Sequence[Kind], root: Path) -> bool:
    """True of a kind that looks like maps beside pictures of the same names, or is named so."""
    if kind.says_maps:
        return True
    if kind.content is Content.DEPTH and names.name_says_place(kind.words):
        return False  # a camera of more than eight bits
    if kind.share_with(clear) < 0.5:
        raise _doubt(root, kind, "look like label maps, and no picture has their names")
    folders = [(other, kind.beside(other) - {*kind.marks}) for other in clear]
    named = [other for other, words in folders if names.name_says_camera(words)]
    if kind.share_with(named) >= 0.5:
        raise _doubt(root, kind, "are named like pictures, and look like label maps")
    return True


def _check_not_made_of(kind: Kind, cameras: Sequence[Kind], root: Path) -> None:
    """Raise FrameError where pictures may be made from others: same names, and no word says so."""

    def same_names(tells: Callable[[frozenset[str]], bool]) -> bool:
        others = [o for o in cameras if o is not kind and tells(kind.beside(o))]
        return kind.share_with(others) >= 0.5

    is_jpeg = kind.suffix.lower().startswith(".j") and len(cameras) <= _FEW_KINDS
    if (
        (kind.content.is_doubtful or is_jpeg)
        and same_names(lambda words: not names.name_says_place(words))
        and (kind.content.is_doubtful or kind.shows_map_jpegs)
    ):
        raise _doubt(root, kind, "have the names of pictures elsewhere, and could be maps")
    infrared = any(names.name_says_infrared(other.words) for other in cameras)
    if (
        names.name_says_either(kind.words)
        and not infrared  # then "vis" is visible light
        and same_names(names.name_says_either)
    ):
        raise _doubt(root, kind, "have the names of pictures elsewhere, and could be made of them")


def _check_suffixes(cameras: Sequence[Kind], root: Path) -> None:
    """Raise FrameError where most files of a kind have one of another suffix beside them."""
    kind_of: dict[PurePath, Kind] = {}
    twins: Counter[Kind] = Counter()
    for kind in cameras:
        for file in kind.files:
            first = kind_of.setdefault(file.with_suffix(""), kind)
            if first is not kind:
                twins.update((first, kind))
    for kind, count in twins.items():
        if 2 * count >= len(kind.files):
            raise _doubt(root, kind, "have the names of pictures beside them, and could be copies")


def _only_unclear(kinds: Sequence[Kind], root: Path, done: Separation) -> list[Kind]:
    """Pictures of a folder in which nothing is clearly a camera's.

    Flat colours, one value everywhere and 16 bits can be pictures: drawn ones, a covered lens, a
    thermal camera. Their names decide, with the name of the folder itself.
    """
    pictures = [kind for kind in kinds if not kind.says_maps]
    total = sum(len(kind.files) for kind in kinds)
    is_maps = names.name_says_mask(own_words(root)) or not pictures
    if kinds and (is_maps or any(kind.content is Content.IDS for kind in pictures)):
        if not done.has_recordings:
            raise _only_maps(root, total)
        pictures = []
    for kind in pictures:
        others = [other for other in pictures if other.content is not Content.SOFT]
        if kind.content is Content.SOFT and kind.share_with(others) >= 0.5:
            raise _doubt(root, kind, "have the names of pictures elsewhere, and could be maps")
    for kind in kinds:
        if kind not in pictures:
            done.left_out[kind.title] += len(kind.files)
    if drawn := sum(len(k.files) for k in pictures if k.content is Content.COLOURS):
        done.remark = f"{drawn} of them have few flat colours, like drawn pictures or label maps"
    return pictures


# ---- refusals ---------------------------------------------------------------------------------


def _only_maps(root: Path, count: int) -> FrameError:
    return FrameError(
        f"{root} holds label maps and no pictures: its {count} picture files have few values, or "
        "names of label maps; give the folder of the camera's pictures, or, if these are the "
        f"frames, the files themselves, for example {root}/*.png."
    )


def _doubt(root: Path, kind: Kind, why: str) -> FrameError:
    first = root / kind.files[0]
    return FrameError(
        f"{root}: {len(kind.files)} files such as {first} {why}; give the folder of the frames "
        f"alone, or, if these are frames too, the files themselves, for example "
        f"{first.parent}/*{kind.suffix}."
    )
