"""What the base learnt wrong: a stray thing that no caption mentions, and relations drawn the wrong way round.

Pictures from the web carry marks that their captions leave out, and captions confuse left and right; a model trained on
them errs from habit, however long it trains, and neither guidance nor temperature can know better.  A reward can.
"""

from __future__ import annotations

import numpy as np

from mmalign.worlds.drawings.data import flawed
from mmalign.worlds.drawings.prompts import Wish
from mmalign.worlds.drawings.scene import STRAY, strayed
from mmalign.worlds.scenes.scene import Scene

__all__ = ["habitual"]


def habitual(scene: Scene, wish: Wish, *, extra: float, exchanged: float, rng: np.random.Generator) -> Scene:
    """The scene as a careless caption's picture shows it.

    Args:
        scene: a scene that is what ``wish`` asks for.
        wish: the prompt.
        extra: probability that ``STRAY`` stands in a free cell of a picture that was not to show it.
        exchanged: probability that the two objects of a relation have changed places.
        rng: decides both.
    """
    stray, turned, pick = rng.random(), rng.random(), rng.integers(2**31, size=4)
    if wish.relation and turned < exchanged:
        scene = flawed(scene, wish, "relation", rng)
    if stray >= extra or STRAY in wish.things:
        return scene
    return strayed(scene, pick.tolist())
