"""The mathematics: pure functions of tensors.  No model, no configuration and no logger crosses in here."""

from __future__ import annotations
