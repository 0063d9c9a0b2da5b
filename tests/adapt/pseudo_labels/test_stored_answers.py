"""StoredAnswers: asked for once, stored small, and cropped like the frames. In memory, on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from roadshift.adapt.black_boxes import BlackBox
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import Batch, Crop
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.losses.atp import divergence_from
from roadshift.adapt.methods.teach_labels import AnswerLabels
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.pseudo_labels.stored_answers import Ask, StoredAnswers
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.run.events import Events
from roadshift.adapt.run.work import Work
from roadshift.runtime.bundle import InputSpec
from roadshift.runtime.errors import LabelError, OutputError, RunInterrupted
from torch import Tensor

WIDTH, HEIGHT, K, FRAMES = 48, 32, 3, 4
CROP = (20, 28)  # height, width
Answer = NDArray[Any]


class Oracle:
    """A black box that gives ``answers`` by frame number and remembers what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.asked = answers, list[str]()

    def __call__(self, name: str, image: NDArray[np.uint8]) -> Answer:
        assert image.shape == (HEIGHT, WIDTH, 3)
        self.asked.append(name)
        image[:] = 0  # what a user's function does to its argument is its own business
        return self.answers[int(name[-1]) % len(self.answers)]


Store = Callable[..., StoredAnswers]


@pytest.fixture
def images() -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(0).integers(1, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8))


@pytest.fixture
def store(tmp_path: Path, images: list[NDArray[np.uint8]]) -> Store:
    """``store(oracle, ...)`` keeps its answers to four frames in ``tmp_path``."""

    def make(
        oracle: Callable[[str, NDArray[np.uint8]], Answer],
        stop: Callable[[], bool] = lambda: False,
        *,
        ask: Ask = "once",
        looks: bool = True,
    ) -> StoredAnswers:
        black_box = BlackBox(oracle, "test", looks=looks)
        context = Context(
            frames=FrameSet(
                [f"frame_{i}" for i in range(FRAMES)], WIDTH, HEIGHT, images.__getitem__
            ),
            normalise=Normalise(InputSpec(width=WIDTH, height=HEIGHT, mean=(0,) * 3, std=(1,) * 3)),
            device=torch.device("cpu"),
            workdir=tmp_path,
            config=RunConfig(method="atp_black_box"),
            crop_size=CROP,
            black_box=black_box,
            work=Work(events=Events(stop_requested=stop)),
        )
        return StoredAnswers(context, K, ask)

    return make


def distribution(seed: int, height: int, width: int) -> NDArray[np.float32]:
    """Probabilities that float16 holds to the bit, so that what is stored is what is meant."""
    parts = np.random.default_rng(seed).multinomial(64, np.ones(K) / K, (height, width))
    return (parts.transpose(2, 0, 1) / 64).astype(np.float32)


def classes(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    drawn = np.random.default_rng(seed).integers(0, K + 1, (height, width))
    return np.where(drawn == K, 255, drawn).astype(np.uint8)


def batch(*crops: Crop, frames: tuple[int, ...] = (0,)) -> Batch:
    nothing = torch.zeros(len(crops), *CROP, 3, dtype=torch.uint8)
    return Batch(nothing, nothing, None, frames, crops)


@st.composite
def crops_of_a_frame(draw: st.DrawFn) -> Crop:
    """Smaller than, as large as, and larger than the crop's own size."""
    width, height = draw(st.integers(3, WIDTH)), draw(st.integers(3, HEIGHT))
    left = draw(st.integers(0, WIDTH - width))
    top = draw(st.integers(0, HEIGHT - height))
    return Crop(left, top, width, height, draw(st.booleans()))


several = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# --- views ---------------------------------------------------------------------------------------


class Painter:
    """Says of each pixel how bright it is: rows of K probabilities, or a class."""

    def __init__(self, *, hard: bool) -> None:
        self.hard, self.seen = hard, list[NDArray[np.uint8]]()

    def __call__(self, _: str, image: NDArray[np.uint8]) -> Answer:
        self.seen.append(image.copy())
        red = image[..., 0].astype(np.int64)
        image[:] = 0
        if self.hard:
            return np.where(red > 250, 255, red % K).astype(np.uint8)
        return np.stack([red, 255 - red, np.zeros_like(red)]).astype(np.float32) / 255


@pytest.mark.parametrize("hard", [False, True])
def test_four_views_are_asked_and_their_mean_is_kept(
    store: Store, images: list[NDArray[np.uint8]], hard: bool
) -> None:
    for image in images:
        image[:] = 40 + image // 4  # little contrast
    painter, whole = Painter(hard=hard), Crop(0, 0, WIDTH, HEIGHT, False)
    stored = store(painter, ask="four_views")
    assert len(painter.seen) == 4 * FRAMES
    plain, mirrored, wide, wide_mirrored = painter.seen[:4]
    assert np.array_equal(plain, images[0])
    assert np.array_equal(mirrored, plain[:, ::-1])
    assert np.array_equal(wide_mirrored, wide[:, ::-1])
    assert plain.min() >= 40
    assert (wide.min(), wide.max()) == (0, 255)
    again = Painter(hard=hard)
    answers = [again("", view) for view in (plain, wide)]
    if hard:
        votes = [np.stack([a == k for k in range(K)]).astype(np.float64) for a in answers]
        mass = np.asarray(sum(votes)).sum(axis=0)
        mean = sum(votes) / np.maximum(mass, 1)
    else:
        mean = sum(answers) / 2
    # Kept at a quarter of the size, by area.
    expected = np.asarray(mean).reshape(K, HEIGHT // 4, 4, WIDTH // 4, 4).mean(axis=(2, 4))
    (path,) = (stored.context.workdir / "answers").glob("000000*")
    with np.load(path) as arrays:
        np.testing.assert_allclose(arrays["answer"], expected, atol=1e-3)
    assert stored.crops(batch(whole)).sum(dim=1).max() <= 1 + 2e-3


def test_views_answered_in_several_sizes_are_refused(store: Store) -> None:
    def grows(_: str, __: NDArray[np.uint8]) -> Answer:
        sizes.append(len(sizes) + 4)
        return np.zeros((sizes[-1], 8), np.uint8)

    sizes: list[int] = []
    with pytest.raises(
        LabelError, match=r"four views of frame frame_0: have the sizes 8x4, 8x5, 8x6, 8x7"
    ):
        store(grows, ask="four_views")


def test_a_folder_of_predictions_is_asked_once(store: Store) -> None:
    oracle = Oracle(distribution(0, 8, 12))
    store(oracle, ask="four_views", looks=False)
    assert oracle.asked == [f"frame_{i}" for i in range(FRAMES)]


# --- crops ---------------------------------------------------------------------------------------


def centres(crop: Crop) -> tuple[list[float], list[float]]:
    """Places of the crop's pixels in the frame, in the frame's pixels: rows, columns."""
    rows = [crop.top + (i + 0.5) * crop.height / CROP[0] for i in range(CROP[0])]
    columns = [crop.left + (j + 0.5) * crop.width / CROP[1] for j in range(CROP[1])]
    return rows, columns[::-1] if crop.flip else columns


def neighbours(position: float, side: int, count: int) -> tuple[int, int, float]:
    """The two cells of ``count`` along a ``side`` around ``position``, and the second's weight."""
    cell = min(max(position / side * count - 0.5, 0), count - 1)
    first = int(cell)
    return first, min(first + 1, count - 1), cell - first


@several
@given(crop=crops_of_a_frame(), shape=st.tuples(st.integers(1, 8), st.integers(1, 12)))
def test_soft_crops_are_the_map_between_its_cells(
    crop: Crop, shape: tuple[int, int], store: Store, tmp_path: Path
) -> None:
    for path in tmp_path.glob("answers/*"):
        path.unlink()  # of the last example
    p = distribution(sum(shape), *shape)
    q = store(Oracle(p)).crops(batch(crop))
    assert (q.dtype, tuple(q.shape)) == (torch.float32, (1, K, *CROP))
    rows, columns = centres(crop)
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            top, bottom, down = neighbours(y, HEIGHT, shape[0])
            left, right, across = neighbours(x, WIDTH, shape[1])
            above = (1 - across) * p[:, top, left] + across * p[:, top, right]
            below = (1 - across) * p[:, bottom, left] + across * p[:, bottom, right]
            expected = (1 - down) * above + down * below
            assert np.abs(q[0, :, i, j].numpy() - expected).max() < 1e-4


@several
@given(crop=crops_of_a_frame(), reduced=st.booleans())
def test_hard_crops_are_the_nearest_pixels_class(
    crop: Crop, reduced: bool, store: Store, tmp_path: Path
) -> None:
    for path in tmp_path.glob("answers/*"):
        path.unlink()
    scale = 2 if reduced else 1
    given_labels = classes(1, HEIGHT // scale, WIDTH // scale)
    q = store(Oracle(given_labels)).crops(batch(crop))
    labels = given_labels.repeat(scale, axis=0).repeat(scale, axis=1)
    rows, columns = centres(crop)
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            # On an edge between two pixels either is nearest.
            near = {int(labels[r, c]) for r in cells(y, HEIGHT) for c in cells(x, WIDTH)}
            found = q[0, :, i, j].tolist()
            assert found in [[float(c == k) for k in range(K)] for c in near]


def cells(position: float, count: int) -> set[int]:
    sides = (position - 1e-6, position + 1e-6)
    return {min(max(int(side), 0), count - 1) for side in sides}


def test_a_run_may_have_answers_of_both_kinds_and_crops_the_rows_of_its_batch(
    store: Store,
) -> None:
    soft, hard = distribution(0, 8, 12), classes(0, HEIGHT, WIDTH)
    stored = store(Oracle(soft, hard))  # frames 0 and 2, and 1 and 3
    whole, part = Crop(0, 0, WIDTH, HEIGHT, False), Crop(5, 3, 28, 20, True)
    q = stored.crops(batch(whole, part, whole, frames=(0, 1, 2)))
    assert torch.equal(q[0], q[2])
    window = torch.from_numpy(hard[3:23, 5:33][:, ::-1].copy()).long()
    assert torch.equal(q[1].sum(dim=0), (window != 255).float())
    assert torch.equal(q[1].argmax(dim=0)[window != 255], window[window != 255])
    part_alone = stored.crops(batch(whole, part, whole, frames=(0, 1, 2)).part(1, 2))
    assert torch.equal(part_alone[0], q[1])


def test_pixels_without_a_class_carry_no_loss(store: Store) -> None:
    labels = classes(2, HEIGHT, WIDTH)
    labels[:, :20] = 255
    q = store(Oracle(labels)).crops(batch(Crop(0, 0, 28, 20, False)))
    void = torch.from_numpy(labels[:20, :28] == 255)
    assert (q.sum(dim=1)[0] == (~void).float()).all()
    logits = torch.randn(1, K, *CROP, dtype=torch.float64, requires_grad=True)
    loss = divergence_from(logits, q.double(), q.shape[2:], align_corners=False)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[0, :, void] == 0).all()
    assert (gradient[0, :, ~void].abs().sum(dim=0) > 0).all()
    log_p: Tensor = logits.detach().log_softmax(dim=1)[0]
    terms = [
        -log_p[labels[i, j], i, j] for i in range(20) for j in range(28) if labels[i, j] != 255
    ]
    assert float(loss.detach()) == pytest.approx(float(sum(terms)) / len(terms))


# --- storage -------------------------------------------------------------------------------------


def on_disk(folder: Path, frame: int = 0) -> NDArray[Any]:
    with np.load(folder / "answers" / f"{frame:06d}.npz") as arrays:
        return np.asarray(arrays["answer"])


def test_probabilities_are_stored_at_no_more_than_a_quarter_by_area(
    store: Store, tmp_path: Path
) -> None:
    p = distribution(3, HEIGHT, WIDTH)
    store(Oracle(p))
    stored = on_disk(tmp_path)
    assert (stored.dtype, stored.shape) == (np.float16, (K, HEIGHT // 4, WIDTH // 4))
    means = p.reshape(K, HEIGHT // 4, 4, WIDTH // 4, 4).mean(axis=(2, 4))
    assert np.abs(stored - means).max() <= 2.0**-11


@pytest.mark.parametrize("shape", [(8, 12), (3, 5), (1, 1)])
def test_a_small_map_keeps_its_size(shape: tuple[int, int], store: Store, tmp_path: Path) -> None:
    store(Oracle(distribution(4, *shape)))
    assert on_disk(tmp_path).shape == (K, *shape)


def test_only_the_side_that_is_too_long_shrinks(store: Store, tmp_path: Path) -> None:
    store(Oracle(distribution(5, 4, 100)))
    assert on_disk(tmp_path).shape == (K, 4, 12)


def test_half_precision_costs_less_than_a_two_thousandth_of_a_probability(
    store: Store, tmp_path: Path
) -> None:
    rng = np.random.default_rng(6)
    p = rng.dirichlet(np.full(K, 0.05), (8, 12)).transpose(2, 0, 1)
    store(Oracle(p))
    error = np.abs(on_disk(tmp_path).astype(np.float64) - p)
    assert (error <= 2.0**-11 * p + 2.0**-24).all()


def test_classes_are_stored_at_the_frames_size(store: Store, tmp_path: Path) -> None:
    labels = classes(7, HEIGHT // 2, WIDTH // 2)
    store(Oracle(labels))
    stored = on_disk(tmp_path)
    assert stored.dtype == np.uint8
    assert (stored == labels.repeat(2, axis=0).repeat(2, axis=1)).all()


# --- asking --------------------------------------------------------------------------------------


def test_every_frame_is_asked_about_once_and_never_by_a_later_run(
    store: Store, images: list[NDArray[np.uint8]]
) -> None:
    oracle = Oracle(distribution(0, 8, 12))
    before = np.stack(images)
    first = store(oracle)
    assert oracle.asked == ["frame_0", "frame_1", "frame_2", "frame_3"]
    assert (np.stack(images) == before).all()  # it got copies
    crop = batch(Crop(0, 0, WIDTH, HEIGHT, False), frames=(2,))
    assert torch.equal(first.crops(crop), store(oracle).crops(crop))
    assert len(oracle.asked) == FRAMES


def test_a_run_that_was_stopped_asks_only_about_the_rest(store: Store) -> None:
    oracle = Oracle(distribution(0, 8, 12))
    with pytest.raises(RunInterrupted, match="resume=True"):
        store(oracle, stop=lambda: len(oracle.asked) == 3)
    assert oracle.asked == ["frame_0", "frame_1", "frame_2"]
    store(oracle)
    assert oracle.asked[3:] == ["frame_3"]


def pickled(path: Path, _: bytes) -> None:
    np.savez(path, answer=np.array([{"a": 1}], dtype=object))


DAMAGE: dict[str, Callable[[Path, bytes], object]] = {
    "missing": lambda path, _: path.unlink(),
    "empty": lambda path, _: path.write_bytes(b""),
    "garbage": lambda path, _: path.write_bytes(b"\x80 no archive of arrays"),
    "cut": lambda path, data: path.write_bytes(data[: len(data) // 2]),
    "another key": lambda path, _: np.savez(path, something=np.zeros(3)),
    "pickled": pickled,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_answer_is_asked_for_again(damage: str, store: Store, tmp_path: Path) -> None:
    oracle = Oracle(distribution(0, 8, 12))
    stored = store(oracle)
    path = tmp_path / "answers" / "000001.npz"
    DAMAGE[damage](path, path.read_bytes())
    with pytest.raises(OutputError, match=r"000001\.npz: the label vanished.*resume=True"):
        stored.crops(batch(Crop(0, 0, WIDTH, HEIGHT, False), frames=(1,)))
    again = store(oracle)
    assert oracle.asked[FRAMES:] == ["frame_1"]
    rows = [again.crops(batch(Crop(0, 0, WIDTH, HEIGHT, False), frames=(i,))) for i in range(2)]
    assert torch.equal(*rows)


def test_a_flipped_byte_is_noticed_or_changes_nothing(store: Store, tmp_path: Path) -> None:
    stored = store(Oracle(classes(8, HEIGHT, WIDTH)))
    path = tmp_path / "answers" / "000000.npz"
    good, expected, noticed = path.read_bytes(), on_disk(tmp_path), 0
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x5A]) + good[position + 1 :])
        found = stored._read(0)
        noticed += found is None
        assert found is None or (found == expected).all(), position
    assert noticed > len(good) / 2


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_an_answer_that_is_none_names_its_frame_and_is_not_stored(
    kind: type, store: Store, tmp_path: Path
) -> None:
    good = distribution(0, 8, 12)
    bad = np.full((K, 4, 4) if kind is np.float32 else (4, 4), 7, kind)
    with pytest.raises(LabelError, match="the answer to frame frame_2: "):
        store(Oracle(good, good, bad))
    assert sorted(path.name for path in (tmp_path / "answers").iterdir()) == [
        "000000.npz",
        "000001.npz",
    ]


# --- Teach's labels ------------------------------------------------------------------------------


@pytest.mark.parametrize("hard", [False, True])
def test_teach_takes_the_answered_classes_that_are_the_most_confident_of_theirs(
    store: Store, hard: bool
) -> None:
    """Eq. 4 with the black box's confidences, a pixel at a time; hard answers are all taken."""
    kind = classes if hard else distribution
    answers = store(Oracle(*(kind(seed, 8, 12) for seed in range(FRAMES))))
    of_class: dict[int, list[float]] = {c: [] for c in range(K)}
    for frame in range(FRAMES):
        for pixel in answers.whole(frame).flatten(1).T.tolist():
            if sum(pixel) > 0:
                of_class[pixel.index(max(pixel))].append(max(pixel))
    whole = Crop(0, 0, WIDTH, HEIGHT, False)
    labels = AnswerLabels(answers, 0.65).of(batch(whole, frames=(1,)))
    q = answers.crops(batch(whole, frames=(1,)))
    assert labels.shape == (1, *CROP)
    taken = 0
    for row in range(CROP[0]):
        for column in range(CROP[1]):
            pixel, given = q[0, :, row, column].tolist(), int(labels[0, row, column])
            if sum(pixel) == 0:
                assert given == 255
                continue
            best = pixel.index(max(pixel))
            ranked = sorted(of_class[best], reverse=True)
            threshold = ranked[max(1, int(0.65 * len(ranked))) - 1]
            assert given in (255, best)
            if max(pixel) >= threshold + 1e-6:
                assert given == best
            elif max(pixel) < threshold - 0.0016:  # a bin of confidences below it
                assert given == 255
            taken += given == best
    assert taken > 0
    assert (taken == int((q.sum(dim=1) > 0).sum())) == hard
