"""Generated suites: sizes, determinism, labels that say what the pictures show, nothing shared between splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmalign import registry
from mmalign.benchmarks.transfer import natural, structured
from mmalign.benchmarks.transfer.mini_vtab import GROUPS, SIZES, MiniVTAB
from mmalign.benchmarks.transfer.scenes_pixels import ScenesPixels
from mmalign.errors import UserError
from mmalign.protocols import TransferData, TransferSuite
from mmalign.worlds.patterns.canvas import SIDE
from mmalign.worlds.patterns.textures import band_noise
from mmalign.worlds.scenes.data import scene_at
from mmalign.worlds.scenes.render import class_map
from mmalign.worlds.scenes.words import CLASSES

SUITE = MiniVTAB()
TASKS = {task.name: task for task in SUITE.tasks()}


def test_nineteen_tasks_in_three_groups() -> None:
    assert [len(members) for members in GROUPS.values()] == [7, 4, 8]
    assert len(TASKS) == 19
    assert isinstance(SUITE, TransferSuite)
    assert set(registry.names("transfer")) >= {"mini-vtab", "vtab-1k", "fgvc", "scenes-pixels"}


@pytest.mark.parametrize("name", TASKS)
def test_pictures_and_labels(name: str) -> None:
    task = TASKS[name]
    data = SUITE.data(task, "val")
    assert isinstance(data, TransferData)
    x, y = data[3]
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((3, SIDE, SIDE), torch.float32, (), torch.int64)
    assert 0.0 <= float(x.min()) < float(x.max()) <= 1.0
    assert len(data) == SIZES["val"]
    assert set(data.labels.tolist()) == set(range(task.n_classes))
    again = SUITE.data(task, "val")
    assert torch.equal(data.images, again.images)
    other = MiniVTAB(seed=1).data(task, "val")
    assert not torch.equal(data.images, other.images)


def test_no_digit_is_in_two_splits() -> None:
    order = natural.digit_order(0, "digits")
    assert sorted(order.tolist()) == list(range(natural.DIGITS))
    assert [len(SUITE.data(TASKS["digits"], split)) for split in ("train", "val", "test")] == [800, 200, 797]


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UserError, match='no split vall .did you mean "val"'):
        SUITE.data(TASKS["shape"], "vall")


def test_columns_of_x_location_are_where_the_shape_is() -> None:
    images, label = structured.x_location(200, np.random.default_rng(0))
    bright = images.astype(float).max(1)
    weight = np.clip(bright - np.median(bright, axis=(1, 2), keepdims=True) - 60, 0, None)
    column = (weight.sum(1) * np.arange(SIDE)).sum(1) / weight.sum((1, 2)).clip(1e-6)
    assert np.corrcoef(column, label)[0, 1] > 0.95


def test_a_pointer_shows_the_way_it_is_labelled() -> None:
    images, label = structured.orientation(300, np.random.default_rng(0))
    bright = images.astype(float).max(1)
    weight = np.clip(bright - np.median(bright, axis=(1, 2), keepdims=True) - 60, 0, None)
    x = np.arange(SIDE) - (SIDE - 1) / 2
    mass = weight.sum((1, 2)).clip(1e-6)
    cx, cy = (weight.sum(1) * x).sum(1) / mass, (weight.sum(2) * x).sum(1) / mass
    u, v = x[None, None] - cx[:, None, None], x[None, :, None] - cy[:, None, None]
    axis = 0.5 * np.arctan2(2 * (weight * u * v).sum((1, 2)), (weight * (u * u - v * v)).sum((1, 2)))
    wanted = 2 * np.pi / 16 * label
    assert np.mean(np.cos(2 * (axis - wanted)) > 0.8) > 0.9


def test_band_noise_has_its_power_in_the_band() -> None:
    field = band_noise(50, 5.0, 0.3, np.random.default_rng(0)) - 0.5
    power = (np.abs(np.fft.fft2(field)) ** 2).mean(0)
    f = np.fft.fftfreq(SIDE) * SIDE
    radius = np.hypot(f[:, None], f[None, :])
    inside = (radius > 3.2) & (radius < 7.8)
    assert power[inside].sum() / power.sum() > 0.9


def test_pixels_of_a_scene() -> None:
    suite = ScenesPixels(size=64)
    (task,) = suite.tasks()
    small = ScenesPixels().data(task, "val")
    x, y = small[0]
    assert (x.shape, y.shape, y.dtype, task.n_classes) == ((3, 24, 24), (24, 24), torch.int64, 9)
    assert 0.05 < float((small.labels > 0).float().mean()) < 0.6
    scene = scene_at("validation", 0, 0)
    found = class_map(scene)
    assert {CLASSES[k - 1] for k in np.unique(found) if k} == set(scene.classes())
    for obj in scene.objects:
        if obj.cls != "ring":
            assert found[obj.y, obj.x] == CLASSES.index(obj.cls) + 1
    with pytest.raises(UserError, match="1 to 64 pixels"):
        ScenesPixels(size=65)
