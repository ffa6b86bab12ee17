"""Turning a piece into sound: a melody of one instrument over a soft chord, two seconds at 16 kHz."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmalign.data.audio import Clip
from mmalign.rng import numpy_generator
from mmalign.worlds.tunes.tune import Tune

__all__ = ["NOTES_PER_SECOND", "RATE", "SAMPLES", "SECONDS", "melody", "onsets", "render"]

RATE, SECONDS = 16_000, 2
"""Samples per second, and length of every piece."""
SAMPLES = RATE * SECONDS
"""Samples of a piece."""
NOTES_PER_SECOND = {"slow": 2, "medium": 4, "fast": 8}
"""What the tempi are."""
_SCALE = {"major": (0, 2, 4, 5, 7, 9, 11, 12), "minor": (0, 2, 3, 5, 7, 8, 10, 12)}
_TONIC = {"low": 130.81, "middle": 261.63, "high": 523.25}
_CHORD, _CHORD_LEVEL, _THIRD_LEVEL = 261.63, 0.16, 1.8
_PIANO, _FORTE = 0.05, 0.6
_ATTACK = {"flute": 0.03, "reed": 0.012, "strings": 0.05, "bell": 0.002, "guitar": 0.003}
_BELL = np.array([1.0, 2.76, 5.40, 8.93])
_LOOSE = 0.22
"""Standard deviation of an onset at full looseness, in beats."""
_Floats = npt.NDArray[np.float32]


def melody(tune: Tune) -> list[int]:
    """Semitones above the tonic, one per note: steps of the scale along the contour, a quarter of them one step off."""
    rng = numpy_generator(tune.id, "melody")
    count = NOTES_PER_SECOND[tune.tempo] * SECONDS
    way = np.linspace(0, 1, count)
    course = {"rising": way, "falling": 1 - way, "arching": 1 - np.abs(2 * way - 1)}[tune.contour]
    steps = np.rint(course * 7) + rng.choice([-1, 0, 0, 0, 0, 0, 0, 1], size=count)
    scale = _SCALE[tune.mode]
    return [scale[int(step)] for step in np.clip(steps, 0, 7)]


def onsets(tune: Tune) -> list[float]:
    """When each note begins, in seconds; looseness moves all but the first off the beat."""
    rng = numpy_generator(tune.id, "onsets")
    count = NOTES_PER_SECOND[tune.tempo] * SECONDS
    beat = SECONDS / count
    off = rng.normal(size=count) * _LOOSE * tune.looseness**2 * beat
    off[0] = 0
    return [
        float(t) for t in np.clip(np.arange(count) * beat + np.clip(off, -0.45 * beat, 0.45 * beat), 0, None)
    ]


def _partials(timbre: str, tilt: float, frequency: float) -> tuple[_Floats, _Floats, _Floats]:
    """(ratios, amplitudes, decays per second) of the partials below 7.6 kHz."""
    if timbre == "bell":
        ratio, level = _BELL, np.array([1.0, 0.55, 0.35, 0.2])
        decay = np.array([3.0, 4.5, 7.0, 10.0])
    else:
        ratio = np.arange(1, 17, dtype=float)
        if timbre == "flute":
            ratio, level = ratio[:3], np.array([1.0, 0.22, 0.06])
        elif timbre == "reed":
            ratio = ratio[::2]
            level = ratio**-0.8
        else:
            level = ratio**-1.0
        decay = 2.5 + 0.9 * ratio if timbre == "guitar" else np.zeros_like(ratio)
    level = level * ratio ** (0.45 * tilt)
    kept = ratio * frequency < 7600
    return tuple(part[kept].astype(np.float32) for part in (ratio, level, decay))  # type: ignore[return-value]


def _note(tune: Tune, frequency: float, length: int, rng: np.random.Generator) -> _Floats:
    """One note of ``length`` samples."""
    t = np.arange(length, dtype=np.float32) / RATE
    ratio, level, decay = _partials(tune.timbre, tune.tilt, frequency)
    turn = 2 * np.pi * frequency * t
    if tune.timbre in ("flute", "strings"):
        turn = turn + (0.006 * frequency / 5.5) * (1 - np.cos(2 * np.pi * 5.5 * t))
    start = rng.uniform(0, 2 * np.pi, len(ratio)).astype(np.float32)
    waves = np.sin(ratio[:, None] * turn.astype(np.float32) + start[:, None])
    if decay.any():
        waves *= np.exp(-decay[:, None] * t)
    wave = level @ waves
    if tune.timbre == "flute":
        wave = wave + 0.05 * np.convolve(rng.normal(size=length), np.ones(4) / 4, "same")
    wave = wave / np.sqrt((level**2).sum())
    rise = np.clip(t / _ATTACK[tune.timbre], 0, 1)
    fall = np.clip((length / RATE - t) / 0.03, 0, 1)
    return (wave * rise * fall).astype(np.float32)


def _chord(mode: str, rng: np.random.Generator) -> _Floats:
    """The tonic triad around middle C with a prominent third, for the whole piece."""
    t = np.arange(SAMPLES, dtype=np.float32) / RATE
    out = np.zeros(SAMPLES, dtype=np.float32)
    for semitones, level in zip((0, _SCALE[mode][2], 7), (1.0, _THIRD_LEVEL, 1.0), strict=True):
        turn = 2 * np.pi * _CHORD * 2 ** (semitones / 12) * t
        for harmonic, share in ((1, 1.0), (2, 0.4), (3, 0.15)):
            out += level * share * np.sin(harmonic * turn + rng.uniform(0, 2 * np.pi)).astype(np.float32)
    return out * _CHORD_LEVEL


def _levels(dynamics: str) -> _Floats:
    way = np.linspace(0, 1, SAMPLES, dtype=np.float32)
    ends = {"soft": (_PIANO, _PIANO), "loud": (_FORTE, _FORTE), "growing": (_PIANO, _FORTE)}[dynamics]
    return (ends[0] * (ends[1] / ends[0]) ** way).astype(np.float32)


def render(tune: Tune) -> Clip:
    """The sound of a piece; equal pieces sound equal, sample for sample."""
    rng = numpy_generator(tune.id, "sound")
    detune = 2 ** (rng.uniform(-0.1, 0.1) / 12)
    out = _chord(tune.mode, rng)
    starts = [round(t * RATE) for t in onsets(tune)]
    ring = RATE // 2 if tune.timbre in ("bell", "guitar") else 0
    for k, semitones in enumerate(melody(tune)):
        end = starts[k + 1] if k + 1 < len(starts) else SAMPLES
        end = min(SAMPLES, max(end + ring, starts[k] + RATE // 20))
        frequency = _TONIC[tune.register] * detune * 2 ** (semitones / 12)
        out[starts[k] : end] += 0.5 * _note(tune, frequency, end - starts[k], rng)
    out = out * _levels(tune.dynamics) / max(1.0, float(np.abs(out).max()))
    out += 1e-4 * rng.normal(size=SAMPLES).astype(np.float32)
    return Clip(out.astype(np.float32), RATE)
