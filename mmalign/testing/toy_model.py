"""The network of the toy modality: a GRU over tokens whose first state comes from a vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MEDIA_SIZE", "VOCABULARY", "ToyPolicy"]

VOCABULARY = ("<pad>", "<eos>", ".", "a", "b", "c", "d", "e", "f", "g", "h", "i")
MEDIA_SIZE = 4


class ToyPolicy(nn.Module):
    """A recurrent policy of a few thousand parameters.

    Args:
        hidden_size: width of the recurrent state.
        seed: seeds the initial weights.
    """

    def __init__(self, hidden_size: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.see = nn.Linear(MEDIA_SIZE, hidden_size)
        self.embed = nn.Embedding(len(VOCABULARY), hidden_size)
        self.cell = nn.GRU(hidden_size, hidden_size, batch_first=True)
        self.read = nn.Linear(hidden_size, len(VOCABULARY))
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=rng) * (0.4 if weight.dim() > 1 else 0.1))

    def forward(
        self,
        tokens: Tensor,
        media: Tensor | None = None,
        state: Tensor | None = None,
        foreseen: Tensor | None = None,
        blend: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Run over ``tokens`` ``[B, L]`` from a media vector ``[B, 4]`` or a state ``[B, H]``.

        Where ``foreseen`` ``[B, L]`` is given, a share ``blend`` of each token's embedding is that of ``foreseen``.

        Returns:
            Hidden states ``[B, L, H]`` after every token and the logits ``[B, L, V]`` read from them.
        """
        if state is None:
            assert media is not None
            state = torch.tanh(self.see(media))
        read = self.embed(tokens)
        if foreseen is not None:
            read = (1 - blend) * read + blend * self.embed(foreseen)
        hidden, _ = self.cell(read, state[None].contiguous())
        return hidden, self.read(hidden)
