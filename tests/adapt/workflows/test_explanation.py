"""`roadshift.explain`: maps against plain numpy, pictures, the page, and what can be missing."""

from __future__ import annotations

import html.parser
import importlib.util
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import roadshift
import torch
from bundle_cases import write_bundle
from roadshift.adapt.explaining.feature_plane import FeatureSample, plane_of, why_not
from roadshift.adapt.explaining.frame_maps import complementary_rank, maps_of, ranks_in
from roadshift.adapt.explaining.pictures import class_mask, differences, heat_map
from roadshift.adapt.losses.common import upsample
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.models.loading import load_network
from roadshift.adapt.networks import Output, SegmentationNetwork, build_network
from roadshift.adapt.run.events import Events
from roadshift.adapt.run.options import RunOptions
from roadshift.adapt.workflows import explained_results
from roadshift.adapt.workflows.compare import Comparison, VariantRun
from roadshift.adapt.workflows.explained_results import explain_results, explained_sections
from roadshift.adapt.workflows.explanation import Explanation, explain
from roadshift.adapt.workflows.method_variants import MethodVariant
from roadshift.runtime.bundle import Bundle, NetworkSpec
from roadshift.runtime.errors import (
    ConfigError,
    FrameError,
    LabelSpaceError,
    OutputError,
    RunInterrupted,
)
from roadshift.runtime.labels import label_space
from spaces import FOUR

HAS_SKLEARN = importlib.util.find_spec("sklearn") is not None
K, D, H, W = 5, 3, 7, 9
OF_A_FRAME = ["frame", "labels", "top2", "entropy", "importance", "consistency", "similarity"]
OF_A_FRAME += ["ld-complementary", "atp-negative", "atp-positive", "ld-positive"]
Explain = Callable[..., Explanation]


# --- values --------------------------------------------------------------------------------------


def random_output(seed: int = 0) -> Output:
    """Logits and features at the size of the maps, so that no interpolation comes between."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(1, K, H, W, generator=generator)
    return Output(logits, torch.rand(1, D, H, W, generator=generator))


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return np.asarray(e / e.sum())


def test_every_map_is_its_equation_pixel_by_pixel() -> None:
    output = random_output()
    maps = maps_of(output, (H, W), align_corners=False)
    z = output.logits[0].double().numpy()
    for v in np.ndindex(H, W):
        p = softmax(z[:, v[0], v[1]])
        order = np.argsort(-p)
        assert maps.labels[v] == order[0]
        assert maps.complementary[v] == order[complementary_rank(K) - 1]
        assert maps.negatives[v] == sum(q < 0.05 for q in p)
        first, second = p[order[0]], p[order[1]]
        entropy = -sum(q * math.log(q) for q in p) / math.log(K)
        found = [m[v] for m in (maps.first, maps.second, maps.importance, maps.entropy)]
        assert found == pytest.approx([first, second, 1 - second / first, entropy], abs=1e-6)


def test_prototypes_are_the_means_of_each_class_and_the_likest_one_is_y_prime() -> None:
    output = random_output(1)
    assert output.features is not None
    maps = maps_of(output, (H, W), align_corners=False)
    found, f = maps.prototypes, output.features[0].double().numpy()
    assert found is not None
    means = {}
    for c in range(K):
        members = [f[:, i, j] for i, j in np.ndindex(H, W) if maps.labels[i, j] == c]
        assert found.present[c] == bool(members)
        if members:
            means[c] = np.mean(members, axis=0)
    for i, j in np.ndindex(H, W):
        x = f[:, i, j]
        cosine = {c: float(x @ k / np.linalg.norm(x) / np.linalg.norm(k)) for c, k in means.items()}
        for c, value in cosine.items():
            assert found.similarity[c, i, j] == pytest.approx(value, abs=1e-5)
        assert cosine[int(found.labels[i, j])] == pytest.approx(max(cosine.values()), abs=1e-5)


def test_the_rank_counts_the_classes_that_the_other_model_finds_likelier() -> None:
    output, rng = random_output(2), np.random.default_rng(0)
    labels = rng.integers(0, K, (H, W)).astype(np.uint8)
    ranks = ranks_in(output, labels, align_corners=False)
    z = output.logits[0].numpy()
    for v in np.ndindex(H, W):
        descending = sorted(z[:, v[0], v[1]], reverse=True)
        assert descending[ranks[v] - 1] == z[labels[v], v[0], v[1]]


def test_a_heat_map_runs_from_dark_to_bright_and_takes_a_span_of_nothing() -> None:
    ramp = np.linspace(-1, 2, 12, dtype=np.float32)[None]
    brightness = heat_map(ramp, (0.0, 1.0))[0] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(brightness) >= 0).all()
    assert brightness[0] == brightness[3]  # what is below the span has its lowest colour
    assert len(np.unique(heat_map(ramp, (1.0, 1.0)).reshape(-1, 3), axis=0)) == 1


def test_masks_have_the_colours_of_classes_where_they_are_shown_and_nowhere_else() -> None:
    labels = np.array([[0, 1], [2, 3]], np.uint8)
    shown = np.array([[True, False], [False, True]])
    picture = class_mask(labels, shown, FOUR)
    assert [tuple(picture[0, 0]), tuple(picture[1, 1])] == [FOUR.colours[0], FOUR.colours[3]]
    assert picture[~shown].min() >= 200
    grey = np.full((2, 2, 3), 100, np.uint8)
    differs = differences(grey, labels, np.array([[0, 1], [3, 3]], np.uint8), FOUR)
    assert tuple(differs[1, 0]) == FOUR.colours[3]
    assert (differs[[0, 0, 1], [0, 1, 1]] == 40).all()


def test_samples_of_one_seed_are_the_same_positions() -> None:
    output = random_output(3)
    one, other, third = (FeatureSample(6, seed) for seed in (0, 0, 1))
    for sample in (one, other, third):
        for frame in range(2):
            sample.add(frame, output, (H, W), align_corners=False)
    assert one.features.shape == (12, D)
    assert (one.features == other.features).all()
    assert (one.labels == other.labels).all()
    assert not (one.features == third.features).all()
    assert output.features is not None
    f, z = output.features[0].flatten(1).numpy(), output.logits[0].flatten(1).numpy()
    for feature, label in zip(one.features, one.labels, strict=True):
        (position,) = np.flatnonzero((f == feature[:, None]).all(axis=0))
        assert z[:, position].argmax() == label


def test_features_that_have_no_plane_are_told_apart() -> None:
    spread = np.random.default_rng(0).random((20, 4), np.float32)
    assert why_not(spread) is None
    assert "too few" in str(why_not(spread[:5]))
    assert "one channel" in str(why_not(spread[:, :1]))
    assert "the same" in str(why_not(np.ones((20, 4), np.float32)))


@pytest.mark.skipif(not HAS_SKLEARN, reason="scikit-learn is not installed")
def test_two_groups_of_features_stay_two_groups_in_the_plane() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 0.1, (60, 5)).astype(np.float32)
    features[30:] += 9
    plane = plane_of(features, 0)
    middles = plane[:30].mean(axis=0), plane[30:].mean(axis=0)
    nearer = [np.argmin([np.linalg.norm(x - m) for m in middles]) for x in plane]
    assert nearer == [0] * 30 + [1] * 30
    assert (plane == plane_of(features, 0)).all()


# --- the whole -----------------------------------------------------------------------------------


@pytest.fixture
def no_sklearn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python finds no scikit-learn, whether it is there or not."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)


@pytest.fixture
def adapted(source: Bundle, network: Callable[..., SegmentationNetwork], tmp_path: Path) -> Bundle:
    """A bundle of other weights that names ``source`` as its parent."""
    origin = source.manifest.provenance.model_copy(update={"parent": source.hash})
    return write_bundle(tmp_path / "adapted", network(5), like=source, provenance=origin)


@pytest.fixture
def explained(source: Bundle, frames_dir: Path, tmp_path: Path) -> Explain:
    """``explained(bundle, source=..., max_frames=...)`` into ``tmp_path/seen``, its notes kept."""

    def run(bundle: Bundle = source, frames: Any = frames_dir, **more: Any) -> Explanation:
        return explain(bundle, frames, **{"out": tmp_path / "seen", "device": "cpu", **more})

    return run


class _Page(html.parser.HTMLParser):
    """Attributes of a page's elements, and what is written in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[dict[str, str | None]] = []
        self.links: list[str | None] = []
        self.tags: set[str] = set()
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        if tag == "img":
            self.pictures.append(given)
        self.links += [given[name] for name in ("href", "src", "srcset") if name in given]

    def handle_data(self, data: str) -> None:
        self.said += data


@pytest.mark.usefixtures("no_sklearn")
def test_a_page_with_every_picture_and_no_reference_to_anywhere(
    explained: Explain, source: Bundle, adapted: Bundle
) -> None:
    notes: list[str] = []
    made = explained(adapted, source=source, max_frames=2, on_note=notes.append)
    assert [list(frame["figures"]) for frame in made.frames] == [OF_A_FRAME] * 2
    assert made.page == made.out / "index.html"
    text = made.page.read_text(encoding="utf-8")
    shown = _Page(text)
    files = {p.relative_to(made.out).as_posix() for p in made.out.rglob("*.png")}
    assert {str(one["src"]) for one in shown.pictures} == files
    assert len(shown.pictures) == len(files) == 2 * len(OF_A_FRAME) + 2
    assert all(len(str(one["alt"])) > 15 for one in shown.pictures)
    assert {str(link) for link in shown.links} == files | {
        "#all",
        "#share",
        "#frame-001",
        "#frame-002",
    }
    assert not {"script", "link", "iframe"} & shown.tags
    assert "url(" not in text
    assert "://" not in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    for file in files:
        assert cv2.imread(str(made.out / file)) is not None
    assert any("using 2 of 6 frames" in note for note in notes)
    assert json.loads((made.out / "explanation.json").read_text()) == made.record()
    page = Path(__file__).parents[3] / "docs/explain.md"
    documented = page.read_text(encoding="utf-8").partition("| key of `--json` | |")[2]
    for key in (*made.record(), *made.frames[0]):
        assert f"`{key}`" in documented, key


@pytest.mark.usefixtures("no_sklearn")
def test_without_scikit_learn_a_sentence_says_so_and_the_rest_is_there(explained: Explain) -> None:
    notes: list[str] = []
    made = explained(max_frames=1, on_note=notes.append)
    assert made.missing["t-SNE"].startswith("it needs sklearn")
    assert sum("pip install 'roadshift[explain]'" in note for note in notes) == 1
    assert "roadshift[explain]" in made.page.read_text()
    assert len(made.frames) == 1
    assert made.figures == ("class-share.png",)


@pytest.mark.skipif(not HAS_SKLEARN, reason="scikit-learn is not installed")
def test_features_have_their_picture_where_scikit_learn_is(
    explained: Explain, source: Bundle, adapted: Bundle
) -> None:
    made = explained(adapted, source=source, max_frames=1)
    assert made.figures == ("class-share.png", "ranks.png", "features.png")
    assert made.missing == {}


@pytest.mark.usefixtures("no_sklearn")
def test_shares_ranks_and_differences_are_those_of_the_label_maps(
    explained: Explain, source: Bundle, adapted: Bundle, frames_dir: Path
) -> None:
    made = explained(adapted, source=source, max_frames=6)
    maps: dict[str, list[np.ndarray]] = {"source": [], "adapted": []}
    for name, bundle in (("source", source), ("adapted", adapted)):
        with roadshift.open_engine(bundle, backend="torch", device="cpu") as engine:
            maps[name] = [engine.segment(f.image) for f in roadshift.open_frames(frames_dir)]
    for name, found in maps.items():
        for index, label in enumerate(FOUR.classes):
            share = 100 * np.mean([one == index for one in found])
            assert made.class_share[label][name] == pytest.approx(share)
    differ = [100 * np.mean(a != b) for a, b in zip(*maps.values(), strict=True)]
    assert [frame["differ"] for frame in made.frames] == pytest.approx(differ)
    assert sum(made.ranks) == pytest.approx(100)
    assert made.ranks[0] == pytest.approx(100 - np.mean(differ))


@pytest.mark.usefixtures("no_sklearn")
def test_the_same_model_twice_differs_nowhere_and_has_rank_one(
    explained: Explain, source: Bundle
) -> None:
    made = explained(source, source=source, max_frames=1)
    assert made.frames[0]["differ"] == 0
    assert made.ranks == (100.0, 0.0, 0.0, 0.0)


@pytest.mark.usefixtures("no_sklearn")
def test_positive_labels_are_the_most_confident_share_of_each_class(
    explained: Explain, source: Bundle, frames_dir: Path
) -> None:
    made = explained(method="atp", max_frames=6)
    assert [*made.frames[0]["figures"]] == [*OF_A_FRAME[:4], "atp-negative", "atp-positive"]
    network, normalise = load_network(source, torch.device("cpu")), Normalise(source.manifest.input)
    p = []
    for frame in roadshift.open_frames(frames_dir):
        with torch.no_grad():
            logits = network(normalise(torch.from_numpy(frame.image)[None])).logits
        p.append(upsample(logits, frame.image.shape[:2], False)[0].softmax(dim=0).numpy())
    labels, confidence = np.argmax(p, axis=1), np.max(p, axis=1)
    shown = []
    for found in made.frames:
        picture = cv2.imread(str(made.out / found["figures"]["atp-positive"]))[-256:, :, ::-1]
        small = cv2.resize(picture, labels.shape[:0:-1], interpolation=cv2.INTER_NEAREST_EXACT)
        shown.append(small)
    for index, colour in enumerate(FOUR.colours):
        mine = labels == index
        if mine.any():
            descending = np.sort(confidence[mine])[::-1]
            exact = descending[max(1, int(0.65 * mine.sum())) - 1]
            drawn = (np.array(shown)[mine] == colour).all(axis=1)
            assert drawn[confidence[mine] >= exact].all()
            assert not drawn[confidence[mine] < exact - 0.0016].any()  # the width of a bin


@pytest.mark.usefixtures("no_sklearn")
def test_a_network_without_features_has_all_but_prototypes_and_t_sne(
    explained: Explain, source: Bundle, tmp_path: Path
) -> None:
    name = "user_networks:Einsum"
    torch.manual_seed(0)
    network = build_network(name, FOUR.num_classes)
    bundle = write_bundle(tmp_path / "own", network, like=source, network=NetworkSpec(name=name))
    notes: list[str] = []
    made = explained(bundle, max_frames=1, on_note=notes.append)
    kept = [key for key in OF_A_FRAME if key not in ("consistency", "similarity")]
    assert list(made.frames[0]["figures"]) == kept
    says = "the network of model gives no features"
    assert made.missing["prototypes"] == made.missing["t-SNE"] == says
    assert made.missing["rank histogram"] == "it takes a source model to rank the classes"
    assert _Page(made.page.read_text()).said.count(says) == 2
    assert f"without prototypes: {says}" in notes


@pytest.mark.usefixtures("no_sklearn")
def test_a_damaged_frame_is_reported_and_the_others_are_explained(
    explained: Explain, frames_dir: Path, tmp_path: Path
) -> None:
    good = sorted(frames_dir.iterdir())[:2]
    bad = tmp_path / "bad.png"
    bad.write_bytes(good[0].read_bytes()[:60])
    notes: list[str] = []
    made = explained(frames=[good[0], bad, good[1]], on_note=notes.append)
    assert [frame["name"] for frame in made.frames] == ["frame_0", "frame_1"]
    (sentence,) = made.skipped
    assert str(bad) in sentence
    assert sentence in notes
    assert sentence in _Page(made.page.read_text()).said
    with pytest.raises(FrameError, match=r"bad\.png"):
        explained(frames=bad, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("no_sklearn")
def test_a_frame_with_scores_that_are_no_numbers_is_left_out(
    explained: Explain, source: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from roadshift.adapt.workflows import explanation

    real, seen = explanation.load_network, []

    def faulty(*given: Any) -> SegmentationNetwork:
        network = real(*given)

        def spoil(_: Any, __: Any, output: Output) -> Output:
            seen.append(1)
            return output._replace(logits=output.logits * math.nan) if len(seen) == 1 else output

        network.register_forward_hook(spoil)
        return network

    monkeypatch.setattr(explanation, "load_network", faulty)
    made = explained(source, max_frames=3)
    assert [frame["name"] for frame in made.frames] == ["frame_2", "frame_5"]
    assert made.skipped == ("frame_0: left out, a score of the model is not a finite number.",)


def test_what_cannot_be_explained_is_refused_before_any_work(
    explained: Explain, source: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"method 'tent' is none of iapc, ld, atp, all"):
        explained(method="tent")
    with pytest.raises(ConfigError, match="max_frames"):
        explained(max_frames=0)
    with pytest.raises(FrameError, match="does not exist"):
        explained(frames=tmp_path / "nowhere")
    other = write_bundle(tmp_path / "x", None, like=source, label_space=label_space("camvid11"))
    with pytest.raises(LabelSpaceError, match=r"camvid11 \(11 classes\) is not that of"):
        explained(source=other)
    with pytest.raises(OutputError, match=r"no-such-folder is not an existing folder"):
        explained(out=tmp_path / "no-such-folder" / "seen")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="never overwritten"):
        explained(out=tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(RunInterrupted, match="nothing was written"):
        explained(stop_requested=lambda: True)
    assert {path.name for path in tmp_path.iterdir()} == {"x", "mine"}


@pytest.mark.usefixtures("no_sklearn")
def test_an_explanation_is_replaced_only_when_asked(explained: Explain) -> None:
    first = explained(max_frames=1)
    with pytest.raises(OutputError, match="already exists"):
        explained(max_frames=2)
    assert len(json.loads((first.out / "explanation.json").read_text())["frames"]) == 1
    assert len(explained(max_frames=2, overwrite=True).frames) == 2
    assert (first.out / "frame-002").is_dir()


@pytest.mark.usefixtures("no_sklearn")
def test_another_model_than_the_parent_is_said(
    explained: Explain, source: Bundle, adapted: Bundle
) -> None:
    notes: list[str] = []
    explained(adapted, source=adapted, max_frames=1, on_note=notes.append)
    assert any("names another parent" in note for note in notes)
    notes.clear()
    explained(adapted, source=source, max_frames=1, overwrite=True, on_note=notes.append)
    assert not any("parent" in note for note in notes)


# --- of a comparison ------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_sklearn")
def test_each_result_of_a_comparison_is_explained_beside_its_source(
    source: Bundle,
    adapted: Bundle,
    frames_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = write_bundle(tmp_path / "broken", None, like=source)
    results = {
        MethodVariant("iapc", "paper", ()): [VariantRun(0, adapted.path, {})],
        MethodVariant("tent", "roadshift", ()): [VariantRun(0, tmp_path, {}, error="No.")],
        MethodVariant("ld", "roadshift", ()): [VariantRun(0, broken.path, {})],
    }
    comparison = Comparison(source, ("drive",), (), {}, results)
    notes: list[str] = []
    (tmp_path / "out").mkdir()
    options = RunOptions(tmp_path / "out", device="cpu", events=Events(notes.append))
    frames = [str(sorted(frames_dir.iterdir())[0])]
    for _ in range(2):  # the same command again makes them anew
        pages = explain_results(comparison, frames, options)
        assert pages == {"iapc:paper": "explained/adapted/index.html"}
        assert (options.out / pages["iapc:paper"]).is_file()
    assert sum("ld is not explained" in note and "holds no weights" in note for note in notes) == 2
    (section,) = explained_sections(options.out, pages)
    assert section.title == "iapc:paper, explained"
    assert {one.title.rpartition(": ")[2] for one in section.pictures} >= {"labels", "importance"}
    assert all(one.source.startswith("data:image/jpeg;base64,") for one in section.pictures)
    assert all(one.alt for one in section.pictures)
    monkeypatch.setattr(explained_results, "_MOST_EMBEDDED", 10)
    assert [list(one.pictures) for one in explained_sections(options.out, pages)] == [[]]
    stopped = RunOptions(tmp_path / "out", events=Events(stop_requested=lambda: True))
    with pytest.raises(RunInterrupted, match="the runs are done, and the same command goes on"):
        explain_results(comparison, frames, stopped)
