"""Label maps: the built-in ones against a table, drawn ones against a dictionary, and refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.runtime.errors import LabelSpaceError
from roadshift.runtime.labels import LABEL_SPACES, LabelSpace, label_space
from roadshift.runtime.labels.spaces import UNMAPPED, LabelMap

# Target class of each train id, from the definitions of the data sets' classes.
CAMVID = [3, 4, 1, 7, 7, 2, 6, 6, 5, 5, 0, 9, 10, 8, 8, 8, 8, 10, 10]
IDD = [0, 1, 5, 4, 4, 4, 4, 4, 5, 1, 6, 2, 2, 3, 3, 3, 3, 3, 3]
FEW = LabelSpace("few", ("ground", "thing"), ((1, 1, 1), (2, 2, 2)))


def space_of(name: str, classes: tuple[str, ...], never: tuple[str, ...] = ()) -> LabelSpace:
    colours = tuple((i, 0, 0) for i in range(len(classes)))
    return LabelSpace(name, classes, colours, never_labelled=never)


# ---- built-in spaces and maps ------------------------------------------------------------------


def test_cityscapes20_is_cityscapes19_and_a_background_that_no_file_holds() -> None:
    twenty, nineteen = label_space("cityscapes20"), label_space("cityscapes19")
    assert twenty.classes == (*nineteen.classes, "background")
    assert (twenty.raw_ids, twenty.train_ids) == (nineteen.raw_ids, nineteen.train_ids)
    assert twenty.never_labelled == ("background",)
    assert len(set(twenty.colours)) == 20


def test_idd7_has_the_classes_and_colours_of_the_data_set() -> None:
    idd = label_space("idd7")
    first = ("drivable", "non-drivable", "living things", "vehicles", "roadside objects")
    assert idd.classes == (*first, "far objects", "sky")
    assert idd.colours[0] == (128, 64, 18)
    assert idd.encode(np.array([[0, 6, 255]]), raw=False, where="x").tolist() == [[0, 6, 255]]


@pytest.mark.parametrize("source", ["cityscapes19", "cityscapes20"])
@pytest.mark.parametrize(("target", "table"), [("camvid11", CAMVID), ("idd7", IDD)])
def test_the_built_in_maps_to_coarser_classes(source: str, target: str, table: list[int]) -> None:
    found = label_space(source).map_to(label_space(target))
    background = ("background",) if source == "cityscapes20" else ()
    assert list(found.indices) == [*table, *(None for _ in background)]
    assert found.unmapped == background
    assert found.unreached == ()
    assert found.name == f"{source}-to-{target}"


@pytest.mark.parametrize("source", ["cityscapes19", "cityscapes20"])
@pytest.mark.parametrize(
    "target", ["cityscapes19", "cityscapes20", "synthia16", "synthia13", "crosscity13"]
)
def test_classes_of_the_same_name_stay_themselves(source: str, target: str) -> None:
    ours, theirs = label_space(source), label_space(target)
    found = ours.map_to(theirs)
    for name, index in zip(ours.classes, found.indices, strict=True):
        same = name in theirs.classes and name != "background"
        assert index == (theirs.classes.index(name) if same else None)
    assert found.unreached == ()
    assert found.is_identity == (source == target)


def test_a_space_maps_to_itself_without_a_word() -> None:
    for name in LABEL_SPACES:
        found = label_space(name).map_to(label_space(name))
        assert found.is_identity
        assert found.notes() == []
        assert found.unmapped == label_space(name).never_labelled


@pytest.mark.parametrize(
    ("source", "target"), [("camvid11", "cityscapes19"), ("synthia16", "camvid11")]
)
def test_labels_that_no_map_reaches_are_refused_with_what_to_do(source: str, target: str) -> None:
    with pytest.raises(
        LabelSpaceError, match=rf"labels are in {target} .* model in {source} .* label_map"
    ):
        label_space(source).map_to(label_space(target))


# ---- drawn maps --------------------------------------------------------------------------------


@st.composite
def drawn(draw: st.DrawFn) -> tuple[LabelSpace, LabelSpace, dict[str, str | None]]:
    """Two spaces, and a map between them that maps at least one class."""
    k, t = draw(st.integers(2, 12)), draw(st.integers(2, 12))
    source = space_of("source", tuple(f"s{i}" for i in range(k)))
    target = space_of("target", tuple(f"t{i}" for i in range(t)))
    some = st.dictionaries(
        st.sampled_from(source.classes), st.sampled_from((None, *target.classes)), min_size=1
    )
    names = draw(some.filter(lambda names: any(names.values())))
    return source, target, names


@settings(max_examples=60, deadline=None)
@given(case=drawn(), seed=st.integers(0, 2**32 - 1))
def test_a_map_does_what_its_dictionary_says(
    case: tuple[LabelSpace, LabelSpace, dict[str, str | None]], seed: int
) -> None:
    source, target, names = case
    found = source.map_to(target, names)
    prediction = np.random.default_rng(seed).integers(0, source.num_classes, (5, 7))
    mapped = found.apply(prediction.astype(np.uint8))
    for before, after in zip(prediction.flat, mapped.flat, strict=True):
        name = names.get(source.classes[before])
        assert after == (UNMAPPED if name is None else target.classes.index(name))
    assert set(found.unmapped) == {name for name in source.classes if not names.get(name)}
    assert set(found.unreached) == set(target.classes) - set(names.values())
    again = source.map_to(target, json.loads(json.dumps(found.to_dict())))
    assert again.indices == found.indices
    assert source.map_to(target, found) == found


def test_a_map_cannot_be_changed() -> None:
    names: dict[str, str | None] = {"road": "ground"}
    found = label_space("camvid11").map_to(FEW, names)
    names["car"] = "thing"
    assert found.unreached == ("thing",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "other"  # type: ignore[misc]


def test_what_a_file_lacks_or_calls_null_is_unmapped_and_said(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text('{"road": "ground", "sky": null}')
    found = label_space("camvid11").map_to(FEW, tmp_path / "own.json")
    assert len(found.unmapped) == 10
    assert "sky" in found.unmapped
    used, wrong, never = found.notes()
    assert str(tmp_path / "own.json") in used
    assert "'sky'" in wrong
    assert "'thing' of few" in never
    assert found.record() == {
        "name": str(tmp_path / "own.json"),
        "from": "camvid11",
        "to": "few",
        "unmapped": list(found.unmapped),
        "unreached": ["thing"],
    }


def test_a_class_that_no_labels_hold_is_never_a_target() -> None:
    source, target = label_space("cityscapes19"), label_space("cityscapes20")
    found = source.map_to(target, {"road": "road", "sky": "background"})
    assert "sky" in found.unmapped
    assert "background" not in found.unreached


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"raod": "ground"}', r"maps 'raod', which is no class .* camvid11; it has 'sky', "),
        ('{"road": "grund"}', r"to 'grund', which is no class .* few; it has 'ground', 'thing'"),
        ('{"road": 0}', r"to 0, which is no class"),
        ('{"road": ["ground"]}', r"which is no class"),
        ('{"road": "ground", "road": "thing"}', r"not a JSON label map \('road' is given twice\)"),
        ('{"road": null}', r"maps no class of camvid11 to a class of few, .* map at least one of"),
        ("{}", r"maps no class of camvid11 to a class of few"),
        ('{"road": "ground"', r"not a JSON label map \("),
        ('["road"]', r"a label map is one JSON object of class names, such as"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, content: str, match: str) -> None:
    (tmp_path / "own.json").write_text(content)
    with pytest.raises(LabelSpaceError, match=r"own\.json.*" + match) as refused:
        label_space("camvid11").map_to(FEW, str(tmp_path / "own.json"))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelSpaceError, match=r"own\.json: cannot read this label map \(No such"):
        label_space("camvid11").map_to(FEW, tmp_path / "own.json")


def test_pairs_that_give_a_class_twice_are_refused() -> None:
    with pytest.raises(LabelSpaceError, match="maps 'road' twice; give each class once"):
        label_space("camvid11").map_to(FEW, [("road", "ground"), ("road", None)])


def test_a_map_between_other_spaces_is_refused() -> None:
    other = label_space("camvid11").map_to(FEW, {"road": "ground"})
    with pytest.raises(LabelSpaceError, match="is from camvid11 to few, and the model is in idd7"):
        label_space("idd7").map_to(FEW, other)


@pytest.mark.parametrize("indices", [(0,), (0, 2), (0, -1), (None, None)])
def test_indices_that_do_not_fit_are_refused(indices: Any) -> None:
    with pytest.raises(LabelSpaceError, match="label map odd: "):
        LabelMap("odd", FEW, FEW, indices)


@pytest.mark.parametrize("stray", [2, 255])
def test_a_prediction_of_no_class_is_refused(stray: int) -> None:
    with pytest.raises(LabelSpaceError, match="class indices 0 to 1 of few"):
        FEW.map_to(FEW).apply(np.array([[0, stray]], np.uint8))


@pytest.mark.parametrize(
    ("never", "match"),
    [(("b",), "names 'b', which is no class"), (("ground", "thing"), "names all classes")],
)
def test_never_labelled_names_some_of_the_classes(never: tuple[str, ...], match: str) -> None:
    with pytest.raises(LabelSpaceError, match=match):
        space_of("few", FEW.classes, never)


def test_a_space_without_such_classes_is_written_as_before() -> None:
    assert "never_labelled" not in label_space("cityscapes19").to_dict()
    assert LabelSpace.from_dict(label_space("cityscapes20").to_dict()).never_labelled
