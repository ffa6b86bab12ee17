"""Where a backbone's blocks, projections, norms and tokens are, read from its modules and never from its name.

Known by structure: timm's ViT, Swin and ConvNeXt, open_clip's towers, and transformers' encoders and decoders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from mmalign.errors import UserError, nearest
from mmalign.tuners.layer import SiteLayer

__all__ = ["Anatomy", "Block", "scoped"]

_MIXERS = ("attn", "self_attn", "attention", "conv_dw")
_ENTRANCES = ("norm_pre", "ln_pre", "pre_layrnorm")
_TOKENS = ("cls_token", "class_embedding", "embeddings.class_embedding", "embeddings.cls_token")
_HEADS = re.compile(r"(^|\.)(head|fc|classifier|lm_head|visual_projection)(\.|$)")
_STEMS = re.compile(
    r"(^|\.)(patch_embed\w*|patch_embedding\w*|position_embedding\w*|pos_embed\w*|stem|conv1|embeddings|"
    r"embed_tokens|word_embeddings|wte|cls_token|class_embedding|positional_embedding|dist\w*_token|mask_token|reg_token)(\.|$)"
)
_NORMS = ("LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm")


@dataclass(frozen=True, slots=True)
class Block:
    """One block: its full name, its mixer (attention or convolution) and its MLP by full name."""

    name: str
    mixer: str
    mlp: str
    is_attention: bool


@dataclass(frozen=True)
class Anatomy:
    """The parts of ``model`` below ``scope`` (``""``: all of it); every name given out is a full name.

    Raises:
        UserError: where there is no block, the model carries an adapter already, or a question does not apply.
    """

    model: nn.Module
    scope: str = ""

    def __post_init__(self) -> None:
        if any(isinstance(module, SiteLayer) for module in self.model.modules()):
            raise UserError(
                "the model carries an adapter already: merge it (merge_and_unload) before attaching another"
            )

    @cached_property
    def module(self) -> nn.Module:
        """The sub-module that is tuned."""
        return self.model.get_submodule(self.scope) if self.scope else self.model

    def full(self, name: str) -> str:
        """The full name of what is called ``name`` within the scope."""
        return ".".join(piece for piece in (self.scope, name) if piece)

    @cached_property
    def modules(self) -> Mapping[str, nn.Module]:
        """Every module in scope by full name."""
        return {self.full(name): module for name, module in self.module.named_modules()}

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks from first to last: modules with an ``mlp`` and a mixer among their children."""
        found = []
        for name, module in self.modules.items():
            children = dict(module.named_children())
            mixer = next((key for key in _MIXERS if key in children), None)
            if mixer is not None and "mlp" in children:
                found.append(Block(name, f"{name}.{mixer}", f"{name}.mlp", mixer != "conv_dw"))
        if not found:
            raise UserError(
                f'no block with an attention (or convolution) and an mlp is below "{self.scope or "the model"}"'
            )
        return tuple(found)

    def linears(self, below: str) -> list[tuple[str, nn.Linear]]:
        """Linear layers below a module, in order."""
        return [
            (n, m) for n, m in self.modules.items() if isinstance(m, nn.Linear) and n.startswith(below + ".")
        ]

    def norms(self) -> list[str]:
        """Normalisation layers with parameters, outside head and stem."""
        return [
            name
            for name, module in self.modules.items()
            if any(kind in type(module).__name__ for kind in _NORMS)
            and getattr(module, "weight", None) is not None
            and not self.is_head(name)
            and not self.is_stem(name)
        ]

    def block_norms(self) -> list[str]:
        """Norms inside blocks."""
        return [
            name for name in self.norms() if any(name.startswith(block.name + ".") for block in self.blocks)
        ]

    def width(self, block: Block) -> int:
        """Channels of a block's stream: what its MLP gives."""
        return self.linears(block.mlp)[-1][1].out_features

    def mlp_input(self, block: Block) -> int:
        """Channels that a block's MLP reads."""
        return self.linears(block.mlp)[0][1].in_features

    def is_head(self, name: str) -> bool:
        """Whether a full name belongs to the head (within the scope)."""
        return bool(_HEADS.search(self._within(name))) and not any(self._below_block(name))

    def is_stem(self, name: str) -> bool:
        """Whether a full name belongs to the patch embedding, positions or tokens."""
        return bool(_STEMS.search(self._within(name))) and not any(self._below_block(name))

    def entrance(self) -> tuple[str, str, int] | None:
        """``(module that reads the embedded tokens, class token's name, D)``, or ``None`` without a class token."""
        parameters = dict(self.module.named_parameters())
        token = next((name for name in _TOKENS if name in parameters), None)
        site = next((name for name in _ENTRANCES if hasattr(self.module, name)), None)
        if token is None or site is None:
            return None
        return self.full(site), token, parameters[token].shape[-1]

    def sections(self, module: str, parameter: str) -> list[tuple[int, int]]:
        """Row ranges that are matrices of their own: three of a fused query, key and value, else one."""
        found = self.modules[module]
        shape = found.get_parameter(parameter).shape
        fused = parameter == "in_proj_weight" or (
            parameter == "weight" and module.rpartition(".")[2] == "qkv"
        )
        if fused and shape[0] % 3 == 0:
            third = shape[0] // 3
            return [(k * third, (k + 1) * third) for k in range(3)]
        return [(0, shape[0])]

    def is_projection(self, module: str, parameter: str) -> bool:
        """Whether a parameter is the weight of a matrix inside a block's attention or MLP."""
        found = self.modules[module]
        shape = found.get_parameter(parameter).shape
        return (
            len(shape) == 2
            and any(self._below_block(module))
            and (isinstance(found, nn.Linear | nn.MultiheadAttention))
        )

    def candidates(self) -> Iterator[tuple[str, str, nn.Parameter]]:
        """``(module, parameter, tensor)`` of everything but head, tokens, positions and patch embedding."""
        seen: set[int] = set()
        for name, module in self.modules.items():
            if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
                continue
            for key, tensor in _own(module):
                full = f"{name}.{key}" if name else key
                if id(tensor) not in seen and not self.is_head(full) and not self.is_stem(full):
                    seen.add(id(tensor))
                    yield name, key, tensor

    def _below_block(self, name: str) -> Iterator[bool]:
        return (name.startswith(block.name + ".") or name == block.name for block in self.blocks)

    def _within(self, name: str) -> str:
        return name[len(self.scope) + 1 :] if self.scope else name


def _own(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    yield from module.named_parameters(recurse=False)
    if isinstance(module, nn.MultiheadAttention):
        yield from ((f"out_proj.{key}", tensor) for key, tensor in module.out_proj.named_parameters())


def scoped(model: nn.Module, scope: str) -> Anatomy:
    """The anatomy below the module whose name is, or ends in, ``scope``.

    Raises:
        UserError: where no module or more than one is called so.
    """
    names = [name for name, _ in model.named_modules() if name]
    found = [name for name in names if name == scope or name.endswith("." + scope)] if scope else [""]
    shortest = [name for name in found if not any(name.startswith(other + ".") for other in found if other)]
    if not shortest:
        last = {piece for name in names for piece in name.split(".") if not piece.isdigit()}
        raise UserError(f'no module is called "{scope}"{nearest(scope, last)}')
    if len(shortest) > 1:
        raise UserError(
            f'"{scope}" names {len(shortest)} modules ({shortest[0]}, {shortest[1]}, ...); say one of them in full'
        )
    return Anatomy(model, shortest[0])
