"""Built-in scenes: same bits for a seed, exact and shared labels, every class, distinct domains."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from roadshift.runtime.errors import ConfigError, OutputError
from roadshift.scenes import DOMAINS, Scene, render_dataset, render_scene
from roadshift.scenes.canvas import SEE_THROUGH, Camera, Canvas, Surface

PHOTOMETRIC = [name for name in DOMAINS if name != "camera"]
SMALL = (160, 80)


def digest(scene: Scene) -> str:
    return hashlib.sha256(scene.image.tobytes() + scene.labels.tobytes()).hexdigest()


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_seed_gives_the_same_bits_again_and_another_seed_others(domain: str) -> None:
    first = render_scene(3, domain, *SMALL)
    assert digest(first) == digest(render_scene(3, domain, *SMALL))
    assert digest(first) != digest(render_scene(4, domain, *SMALL))


def test_a_seed_gives_the_same_bits_in_another_process() -> None:
    code = (
        "import hashlib\n"
        "from roadshift.scenes import render_scene\n"
        "for domain in ('daylight', 'rain'):\n"
        f"    s = render_scene(11, domain, *{SMALL})\n"
        "    print(hashlib.sha256(s.image.tobytes() + s.labels.tobytes()).hexdigest())\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    here = [digest(render_scene(11, domain, *SMALL)) for domain in ("daylight", "rain")]
    assert output.split() == here


def test_photometric_domains_share_labels_and_differ_in_the_image() -> None:
    for seed in (0, 7):
        scenes = {name: render_scene(seed, name, *SMALL) for name in DOMAINS}
        for name in PHOTOMETRIC:
            np.testing.assert_array_equal(scenes[name].labels, scenes["daylight"].labels)
        assert (scenes["camera"].labels != scenes["daylight"].labels).mean() > 0.1
        for one, other in combinations(scenes.values(), 2):
            difference = np.abs(one.image.astype(int) - other.image.astype(int))
            assert difference.mean() > 4


def test_all_19_classes_appear_and_the_rare_ones_often_enough_to_be_learnt() -> None:
    areas = np.array(
        [
            np.bincount(render_scene(seed, "fog", *SMALL).labels.ravel(), minlength=19)
            for seed in range(60)
        ]
    )
    present = (areas > 0.003 * SMALL[0] * SMALL[1]).mean(axis=0)
    assert areas.shape == (60, 19)
    for rare in (12, 14, 15, 16, 17, 18):  # rider, truck, bus, train, motorcycle, bicycle
        assert present[rare] >= 0.25, rare
    assert (present >= 0.25).all(), present


@pytest.mark.parametrize("size", [(512, 256), (321, 161), (97, 203), (16, 16)])
@pytest.mark.parametrize("domain", ["rain", "camera", "night_fog"])
def test_any_size_renders_valid_labels(domain: str, size: tuple[int, int]) -> None:
    scene = render_scene(1, domain, *size)
    assert scene.image.shape == (size[1], size[0], 3)
    assert scene.labels.shape == (size[1], size[0])
    assert scene.image.dtype == scene.labels.dtype == np.uint8
    assert scene.labels.max() < 19
    assert scene.image.std() > 2


def test_labels_of_a_larger_frame_are_those_of_the_smaller_one() -> None:
    small, large = render_scene(5, "fog", 256, 128), render_scene(5, "fog", 512, 256)
    shrunk = cv2.resize(large.labels, (256, 128), interpolation=cv2.INTER_NEAREST_EXACT)
    assert (shrunk == small.labels).mean() > 0.9


def test_fog_hides_the_far_more_than_the_near() -> None:
    clear = replace(DOMAINS["fog"], fog=0.0, noise=0.0, lamps=0.0)
    thick = replace(clear, fog=0.05)
    for seed in range(2):
        scene, hidden = (render_scene(seed, domain, 256, 128) for domain in (clear, thick))
        change = np.abs(hidden.image.astype(float) - scene.image).mean(axis=2)
        road, rows = scene.labels == 0, np.arange(128)[:, None]
        near, far = road & (rows > 115), road & (rows < 85)
        assert change[far].mean() > 1.4 * change[near].mean()


def test_night_and_dusk_are_much_darker_than_daylight() -> None:
    light = {
        name: np.mean([render_scene(seed, name, *SMALL).image.mean() for seed in range(4)])
        for name in ("daylight", "dusk", "night")
    }
    assert light["daylight"] > 1.4 * light["dusk"]
    assert light["daylight"] > 1.4 * light["night"]


def test_gaps_of_a_fence_are_fence_and_show_what_is_behind() -> None:
    canvas = Canvas(Camera(64, 64, 64.0, 32.0, 1.5, 0.0, 0.0))
    wall, bars = Surface(2, (0.9, 0.1, 0.1)), Surface(4, (0.1, 0.1, 0.9))
    square = np.array([(-9, 0, 20), (9, 0, 20), (9, 9, 20), (-9, 9, 20)], float)
    canvas.draw([(square, wall)])
    canvas.panel(3.0, 5.0, 15.0, 1.5, [bars], lambda _, y: np.where(y > 1, 0, SEE_THROUGH))
    reds = np.array([surface.colour[0] for surface in canvas.looks])
    red = reds[canvas.ids] == 0.9
    fence = canvas.labels == 4
    assert (fence & red).any()
    assert (fence & ~red).any()
    assert set(np.unique(canvas.labels)) == {2, 4, 10}


def test_a_data_set_is_two_folders_of_png_files_with_the_same_names(tmp_path: Path) -> None:
    images = render_dataset(tmp_path / "target", "dusk", 3, seed=40, width=96, height=48)
    assert [path.name for path in images] == [f"dusk_{n:06d}.png" for n in (40, 41, 42)]
    assert sorted((tmp_path / "target" / "images").iterdir()) == images
    for number, path in enumerate(images):
        scene = render_scene(40 + number, "dusk", 96, 48)
        bgr = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        labels = cv2.imread(str(tmp_path / "target" / "labels" / path.name), cv2.IMREAD_UNCHANGED)
        assert bgr is not None
        assert labels is not None
        np.testing.assert_array_equal(bgr[..., ::-1], scene.image)
        np.testing.assert_array_equal(labels, scene.labels)


def test_an_unknown_domain_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'noon'.*daylight.*night_fog"):
        render_scene(0, "noon")


def test_a_tiny_frame_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 16 x 16 pixels; got 8 x 64"):
        render_scene(0, "daylight", 8, 64)


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="taken"):
        render_dataset(tmp_path / "taken", "daylight", 1, width=32, height=16)
