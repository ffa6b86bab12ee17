"""What is counted per answer, and how counts become metrics."""

from __future__ import annotations
