"""Makes the shared builders importable, and attention take one kernel."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def one_path() -> Iterator[None]:
    """Without gradient ``nn.MultiheadAttention`` takes another kernel, whose last bit differs."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)
