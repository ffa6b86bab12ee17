"""Intervals, comparisons and agreement: numpy and scipy only, so that a report needs no torch."""

from __future__ import annotations
