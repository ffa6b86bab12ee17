"""Settings of the audio adapter (``model.options``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mmalign.errors import UserError, nearest

__all__ = ["AudioOptions"]


@dataclass(frozen=True, slots=True)
class AudioOptions:
    """How answers are drawn and, with the same numbers, scored.

    Args:
        guidance_scale: 1 draws from the captioned branch alone, more leans towards it and away from the branch without
            a caption; 0 draws without the caption.
        frames: longest answer in frames (tuples of codes); null goes by ``seconds`` or by the longest answer in steps.
        seconds: the same in seconds.
        train_codebooks: how many codebooks, the coarsest first, count in log-probability, KL and entropy; null counts
            all.  The finer ones are drawn as ever and are then part of what the policy acts on, not of its action.
    """

    guidance_scale: float = 1.0
    frames: int | None = None
    seconds: float | None = None
    train_codebooks: int | None = None

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> AudioOptions:
        """Check ``options`` and fill in the defaults.

        Raises:
            UserError: for an unknown key, a value of another kind, or both lengths at once.
        """
        known = [field.name for field in fields(cls)]
        unknown = next((name for name in options if name not in known), None)
        if unknown is not None:
            raise UserError(
                f"model.options.{unknown}: modality audio has no such setting{nearest(unknown, known)}; "
                f"it has {', '.join(known)}"
            )
        for name, value in options.items():
            if value is None and name != "guidance_scale":
                continue
            whole = name in ("frames", "train_codebooks")
            right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not right or value < 0 or (value == 0 and name != "guidance_scale"):
                kind = "a whole number of at least 1" if whole else "a number that is not negative"
                raise UserError(f"model.options.{name}: expected {kind}, got {value!r}")
        if options.get("frames") is not None and options.get("seconds") is not None:
            raise UserError("model.options: frames and seconds both say how long an answer is; give one")
        return cls(**options)

    def length(self, frame_rate: float, most: int) -> tuple[int, bool]:
        """Frames to draw when at most ``most`` fit, and whether that is all that was asked for."""
        wanted = self.frames
        if self.seconds is not None:
            wanted = max(1, round(self.seconds * frame_rate))
        return (most, True) if wanted is None else (min(wanted, most), wanted <= most)
