"""A small diffusion transformer in pixel space that predicts the clean picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps, get_2d_sincos_pos_embed
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

__all__ = ["DrawingTransformer"]


class _Attention(nn.Module):
    """Multi-head attention of tokens ``[B, N, W]`` on ``context`` ``[B, L, C]``; its layers have diffusers' names."""

    def __init__(self, width: int, context_width: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (-1, self.head_width)).transpose(1, 2)

        q, k, v = heads(self.to_q(x)), heads(self.to_k(context)), heads(self.to_v(context))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out(out.transpose(1, 2).flatten(2))


class _Block(nn.Module):
    """Self-attention, a depthwise 3x3 over the grid of patches, attention on the prompt, and a two-layer network."""

    def __init__(self, width: int, context_width: int, head_width: int, ratio: float, side: int) -> None:
        super().__init__()
        self.side = side
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_prompt = nn.LayerNorm(width)
        self.attn1 = _Attention(width, width, head_width)
        self.attn2 = _Attention(width, context_width, head_width)
        self.near = nn.Conv2d(width, width, 3, padding=1, groups=width)
        hidden = int(width * ratio)
        self.ff = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width)
        )
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        nn.init.zeros_(self.near.weight)

    def forward(self, x: Tensor, time: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        shift, scale, gate, shift_ff, scale_ff, gate_ff = (
            (self.scale_shift_table + time).unsqueeze(2).unbind(1)
        )
        inner = torch.addcmul(shift, self.norm(x), 1 + scale)
        x = torch.addcmul(x, gate, self.attn1(inner, inner))
        grid = x.transpose(1, 2).unflatten(2, (self.side, self.side))
        x = x + self.near(grid).flatten(2).transpose(1, 2)
        x = x + self.attn2(self.norm_prompt(x), context, mask)
        return torch.addcmul(x, gate_ff, self.ff(torch.addcmul(shift_ff, self.norm(x), 1 + scale_ff)))


class DrawingTransformer(ModelMixin, ConfigMixin):
    """A diffusion transformer with one shared timestep modulation and attention on the prompt in every block.

    The output is the scheduler's prediction of the clean picture (``prediction_type="sample"``); pictures are
    ``[B, 3, S, S]`` in -1..1.

    *Reference* Peebles and Xie 2022 (arXiv:2212.09748); the shared modulation ("adaLN-single") and the attention on
    the prompt are Chen et al. 2023 (PixArt, arXiv:2310.00426).  *Differs*: a depthwise 3x3 that starts at zero in every
    block, and no latent space.

    Args:
        sample_size: width and height ``S`` of a picture in pixels.
        in_channels: channels of a picture.
        patch_size: width of a patch; a patch is one token.
        width: width of a token.
        num_layers: blocks.
        attention_head_dim: width of an attention head.
        cross_attention_dim: width of a prompt token.
        mlp_ratio: hidden width of the two-layer network over ``width``.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 3,
        patch_size: int = 8,
        width: int = 160,
        num_layers: int = 5,
        attention_head_dim: int = 32,
        cross_attention_dim: int = 128,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        side = sample_size // patch_size
        self.patch_in = nn.Linear(in_channels * patch_size**2, width)
        places = get_2d_sincos_pos_embed(width, side, output_type="pt").float()
        self.register_buffer("places", places[None], persistent=False)
        self.time_proj = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(width, width)
        self.time_modulation = nn.Linear(width, 6 * width)
        self.transformer_blocks = nn.ModuleList(
            [
                _Block(width, cross_attention_dim, attention_head_dim, mlp_ratio, side)
                for _ in range(num_layers)
            ]
        )
        self.norm_out = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, in_channels * patch_size**2)
        for layer in (self.time_modulation, self.proj_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the clean pictures ``[B, 3, S, S]``.

        Args:
            hidden_states: noisy pictures ``[B, 3, S, S]``.
            timestep: the scheduler's timestep, one number or ``[B]``.
            encoder_hidden_states: prompt tokens ``[B, L, cross_attention_dim]``.
            encoder_attention_mask: ``[B, L]``, nonzero on real prompt tokens; None: all are real.
            return_dict: give a ``Transformer2DModelOutput`` instead of a tuple.
        """
        n, patch = len(hidden_states), self.config.patch_size
        cells = F.unfold(hidden_states, patch, stride=patch).transpose(1, 2)
        x = self.patch_in(cells) + self.places
        steps = torch.as_tensor(timestep, device=x.device).reshape(-1).expand(n)
        time = self.time_embedder(self.time_proj(steps).to(x.dtype))
        modulation = self.time_modulation(F.silu(time)).unflatten(-1, (6, -1))
        mask = None if encoder_attention_mask is None else encoder_attention_mask.bool()[:, None, None, :]
        for block in self.transformer_blocks:
            x = block(x, modulation, encoder_hidden_states, mask)
        out = self.proj_out(self.norm_out(x)).transpose(1, 2)
        size = self.config.sample_size
        sample = F.fold(out, (size, size), patch, stride=patch)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)
