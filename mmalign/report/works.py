"""Answers that are seen or heard: pictures, sounds and clips before and after, with what each scored."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign.report.headline import Section, pretty
from mmalign.report.sentences import media_uri, text_of

__all__ = ["Work", "WorkPair", "spectrogram_uri", "works"]

_SHOWN_SCORES = 3


@dataclass(frozen=True, slots=True)
class Work:
    """One answer: a picture (or a clip, or a sound's spectrogram), a sound, and its scores as ``(name, value)``."""

    image: str | None
    sound: str | None
    scores: tuple[tuple[str, float], ...]
    fault: str = ""


@dataclass(frozen=True, slots=True)
class WorkPair:
    """One prompt with its answers before and after training."""

    id: str
    prompt: str
    before: Work
    after: Work | None


def works(section: Section, count: int = 12) -> list[WorkPair]:
    """Return the first ``count`` rows of a section whose answers are files: the first, not the best."""
    later = {sample["id"]: sample for sample in section.after.samples} if section.after else {}
    shown: list[WorkPair] = []
    for sample in section.before.samples:
        if len(shown) == count:
            break
        if _file(sample) is None or (section.after is not None and sample["id"] not in later):
            continue
        other = later.get(sample["id"])
        shown.append(
            WorkPair(
                id=str(sample["id"]),
                prompt=text_of(sample.get("prompt")),
                before=_work(sample, section.before.folder),
                after=_work(other, section.after.folder) if other and section.after else None,
            )
        )
    return shown


def spectrogram_uri(path: Path, floor: float = -80.0) -> str | None:
    """A mono sound's spectrogram in decibels (time to the right, 0 Hz to half the rate upwards) as a data URI.

    ``None`` where the file is no 16-bit or float WAV.
    """
    import numpy as np
    from PIL import Image
    from scipy.io import wavfile
    from scipy.signal import spectrogram

    try:
        rate, samples = wavfile.read(path)
    except ValueError:
        return None
    mono = samples.astype(np.float64) if samples.ndim == 1 else samples.astype(np.float64).mean(1)
    if len(mono) < 256:
        return None
    _, _, power = spectrogram(mono, rate, nperseg=512, noverlap=384)
    decibels = 10 * np.log10(power / max(power.max(), 1e-12) + 1e-12)
    scaled = np.clip((decibels - floor) / -floor, 0.0, 1.0)[::-1]
    picture = Image.fromarray((255 * (1 - scaled)).astype(np.uint8)).resize((240, 96))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _file(sample: Mapping[str, Any]) -> str | None:
    output = sample.get("output")
    name = output.get("file") if isinstance(output, Mapping) else None
    return str(name) if name and Path(str(name)).suffix in (".png", ".gif", ".wav") else None


def _work(sample: Mapping[str, Any], folder: Path) -> Work:
    scores = tuple(
        (pretty(name), float(value))
        for name, value in (sample.get("scores") or {}).items()
        if isinstance(value, int | float)
    )[:_SHOWN_SCORES]
    name = _file(sample)
    if name is None:
        return Work(None, None, scores, str(sample.get("error", "no answer")))
    path = folder / name
    if path.suffix == ".wav":
        return Work(spectrogram_uri(path) if path.is_file() else None, media_uri(path), scores)
    return Work(media_uri(path), None, scores)
