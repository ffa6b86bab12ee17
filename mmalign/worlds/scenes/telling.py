"""A scene told in true sentences: what a reward model may be told beside the picture."""

from __future__ import annotations

from mmalign.rng import numpy_generator
from mmalign.worlds.scenes.facts import true_facts
from mmalign.worlds.scenes.scene import Scene

__all__ = ["tell"]


def tell(scene: Scene, limit: int = 10, relations: int = 5) -> list[str]:
    """Up to ``limit`` true sentences: every object with all its attributes, then relations in a drawn order.

    Args:
        scene: the scene.
        limit: at most so many sentences; objects come first, in raster order.
        relations: at most so many relations.
    """
    told = [f"there is a {o.size} {o.texture} {o.color} {o.cls} ." for o in scene.objects]
    facts = sorted(true_facts(scene)["relation"])
    order = numpy_generator(scene.seed, "telling").permutation(len(facts))[:relations]
    told += [f"the {a} is {relation} the {b} ." for relation, a, b in (facts[k].key for k in order)]
    return told[:limit]
