"""Merging of trained models: pure functions over state dictionaries of whole weights, of any modality.

They work on merged weights, never on the factors of an adapter: the mean of ``B A`` is not the mean of ``B`` times the
mean of ``A``.
"""

from __future__ import annotations

from mmalign.tuners.merging.deltas import METHODS, breadcrumbs, merge_deltas, slerp, task_vector
from mmalign.tuners.merging.soups import greedy_soup, learned_soup, uniform_soup
from mmalign.tuners.merging.states import State, check_alike

__all__ = [
    "METHODS",
    "State",
    "breadcrumbs",
    "check_alike",
    "greedy_soup",
    "learned_soup",
    "merge_deltas",
    "slerp",
    "task_vector",
    "uniform_soup",
]
