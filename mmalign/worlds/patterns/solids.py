"""A solid of two boxes seen from any side: parallel rays, flat shading."""

from __future__ import annotations

import numpy as np

from mmalign.worlds.patterns.canvas import Floats, grid

__all__ = ["solid"]


def solid(azimuth: Floats, elevation: Floats, halves: Floats, tower: Floats) -> tuple[Floats, Floats]:
    """A block with a smaller one on top at its front, so that no two sides look alike.

    Args:
        azimuth: of the viewer around the vertical axis in radians, ``[N]``; 0 looks at the front.
        elevation: of the viewer above the ground in radians, ``[N]``.
        halves: half the block's width, height and depth, ``[N, 3]``.
        tower: half the smaller block's, ``[N, 3]``; it stands on the block at its front.

    Returns:
        The share of each pixel it covers (0 or 1), and its shade in [0, 1], each ``[N, S, S]``.
    """
    x, y = grid()
    ca, sa, ce, se = np.cos(azimuth), np.sin(azimuth), np.cos(elevation), np.sin(elevation)
    zero = np.zeros_like(ca)
    right = np.stack([ca, zero, -sa], -1)
    ahead = np.stack([-sa * ce, -se, -ca * ce], -1)
    up = np.stack([-sa * se, ce, -ca * se], -1)
    start = (
        right[:, None, None] * x[..., None] - up[:, None, None] * y[..., None] - 4.0 * ahead[:, None, None]
    )
    place = np.stack([zero, halves[:, 1] + tower[:, 1], halves[:, 2] - tower[:, 2]], -1)
    lift = np.array([0.0, -0.15, 0.0], dtype=np.float32)
    first, shade_first = _box(start, ahead, np.broadcast_to(lift, place.shape), halves)
    second, shade_second = _box(start, ahead, place + lift, tower)
    hit = np.minimum(first, second)
    shade = np.where(first < second, shade_first, shade_second)
    return np.isfinite(hit).astype(np.float32), np.where(np.isfinite(hit), shade, 0.0).astype(np.float32)


_LIGHT = np.array([[0.35, 0.75], [1.0, 0.25], [0.95, 0.55]], dtype=np.float32)
"""Shade of the faces to the right and left, above and below, front and back."""


def _box(start: Floats, ahead: Floats, centre: Floats, halves: Floats) -> tuple[Floats, Floats]:
    """Distance along each ray to a box (infinite where it misses), and the shade of the face it meets."""
    direction = np.where(np.abs(ahead) < 1e-5, 1e-5, ahead)[:, None, None]
    offset = centre[:, None, None] - start
    enter = (offset - np.sign(direction) * halves[:, None, None]) / direction
    leave = (offset + np.sign(direction) * halves[:, None, None]) / direction
    axis = enter.argmax(-1)
    near, far = enter.max(-1), leave.min(-1)
    negative = np.take_along_axis(np.broadcast_to(direction > 0, enter.shape), axis[..., None], -1)[..., 0]
    return np.where(near < far, near, np.inf), _LIGHT[axis, negative.astype(int)]
