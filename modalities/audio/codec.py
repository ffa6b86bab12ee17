"""Codes to sound and back: EnCodec and DAC of transformers."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mmalign.errors import UserError

__all__ = ["Codec", "HubCodec"]


class Codec(Protocol):
    """A neural or table codec with residual codebooks."""

    sampling_rate: int
    """Samples per second."""
    frame_rate: float
    """Frames (tuples of codes) per second."""

    def encode(self, samples: np.ndarray) -> Tensor:
        """Codes ``[F, K]`` of samples ``[N]`` or, for stereo, ``[N, 2]``."""
        ...

    def decode(self, codes: Tensor) -> np.ndarray:
        """Samples ``[N]`` (or ``[N, 2]``) in [-1, 1] of codes ``[F, K]``."""
        ...


class HubCodec:
    """The audio encoder inside a MusicGen-type model.

    Args:
        model: an EnCodec or DAC model of transformers.
        codebooks: how many residual codebooks the policy uses in all.
        channels: 2 where left and right are coded one beside the other, codebook by codebook.

    Raises:
        UserError: for another kind of codec, or one with fewer codebooks than the policy draws.
    """

    def __init__(self, model: Any, codebooks: int, channels: int = 1) -> None:
        kind = model.config.model_type
        if kind not in ("encodec", "dac"):
            raise UserError(f'audio encoder of type "{kind}" is not known here; use encodec or dac')
        have = model.config.num_quantizers if kind == "encodec" else model.config.n_codebooks
        if have * channels < codebooks:
            raise UserError(f"the audio encoder has {have} codebooks but the policy draws {codebooks}")
        self.sampling_rate: int = model.config.sampling_rate
        self.frame_rate = self.sampling_rate / int(np.prod(model.config.upsampling_ratios))
        self._model, self._kind = model, kind
        self._books, self._channels = codebooks // channels, channels

    @torch.no_grad()
    def encode(self, samples: np.ndarray) -> Tensor:
        """Codes ``[F, K]`` of samples ``[N]`` or ``[N, 2]``; one channel serves both sides of a stereo policy."""
        wave = torch.as_tensor(np.asarray(samples, dtype=np.float32))
        wave = wave[:, None] if wave.dim() == 1 else wave
        sides = [wave[:, min(k, wave.shape[1] - 1)] for k in range(self._channels)]
        if self._channels == 1:
            sides = [wave.mean(1)]
        codes = [self._encode_one(side.to(self._model.device)).t().cpu() for side in sides]
        return torch.stack(codes, dim=-1).flatten(1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> np.ndarray:
        """Samples of codes ``[F, K]``."""
        books = codes.to(self._model.device).view(len(codes), self._books, self._channels)
        sides = [self._decode_one(books[..., k].t()) for k in range(self._channels)]
        wave = torch.stack(sides, dim=-1).float().cpu().numpy()
        return wave[:, 0] if self._channels == 1 else wave

    def _encode_one(self, wave: Tensor) -> Tensor:
        given = wave[None, None].to(self._model.dtype)
        if self._kind == "dac":
            return self._model.encode(given, n_quantizers=self._books).audio_codes[0]
        coded = self._model.encode(given, bandwidth=self._model.config.target_bandwidths[-1]).audio_codes
        if len(coded) != 1:
            raise UserError(
                f"the audio encoder cut a sound of {len(wave)} samples into {len(coded)} chunks; set "
                "chunk_length_s to null in its configuration"
            )
        return coded[0, 0, : self._books]

    def _decode_one(self, codes: Tensor) -> Tensor:
        if self._kind == "dac":
            return self._model.decode(audio_codes=codes[None]).audio_values[0]
        return self._model.decode(codes[None, None], [None]).audio_values[0, 0]
