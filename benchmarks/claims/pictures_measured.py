"""What a claim about pictures measures beside the task: distance from the start, diversity, every reward at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmalign import registry
from mmalign.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from mmalign.pipeline.context import RunContext
    from mmalign.protocols import Reward
    from mmalign.types import Rollout

__all__ = ["FILE", "diversity", "measure"]

FILE = "measured.json"
PROMPTS, EACH = 64, 4


def measure(stage: str | None = None, *, clip: bool = False) -> Callable[[RunContext], None]:
    """A job that draws 4 pictures to each of 64 validation prompts and writes ``measured.json``.

    ``kl`` (exact, nats per picture over all steps, from the shipped pipeline), ``diversity`` (see :func:`diversity`),
    ``jpeg`` (kB), ``truth/template`` and ``truth/network`` (the exact reward under each detector), ``clip`` (cosine of
    the world's model) where asked for.

    Args:
        stage: whose policy; ``None`` for the start.
        clip: whether CLIP's cosine is measured.
    """

    def job(ctx: RunContext) -> None:
        from mmalign.data.jsonl import write_json
        from mmalign.rng import generator

        final = ctx.stage_dir(stage) / "final" if stage else None
        if final is not None and not final.is_dir():
            raise UserError(f"{final}: is not there, so there is no policy to measure")
        model, rows = ctx.load_model(str(final or ctx.base_model())), ctx.rows("validation", PROMPTS)
        decoding = {**ctx.cfg.model.options, **ctx.cfg.evaluate.options}
        ctx.adapter.configure({**decoding, "score": "auto", "train_fraction": 1.0, "train_until": 1.0})  # type: ignore[attr-defined]
        rng = generator(ctx.cfg.seed, "claims", "measured")
        drawn: Rollout = ctx.adapter.sample(model, rows, EACH, rng)  # type: ignore[attr-defined]
        rewards: dict[str, Reward] = {
            "jpeg": registry.load("rewards", "jpeg_incompressibility")(),
            "truth/template": registry.load("rewards", "drawings")("template"),
            "truth/network": registry.load("rewards", "drawings")("network"),
        }
        if clip:
            rewards["clip"] = registry.load("rewards", "clip")()
        found = {name: float(reward(drawn).per_step.sum(1).mean()) for name, reward in rewards.items()}
        found["kl"] = 0.0 if final is None else _kl(ctx, model, drawn, final)
        found["diversity"] = diversity(drawn)
        write_json(ctx.run_dir / FILE, found)

    return job


def diversity(drawn: Rollout) -> float:
    """Mean root-mean-square distance (0 to 255) between two pictures of one prompt."""
    import numpy as np
    import torch

    def grey_levels(picture: Any) -> np.ndarray[Any, Any]:
        if hasattr(picture, "convert"):
            return np.asarray(picture.convert("RGB"), dtype=np.float32)
        return 255 * np.asarray(picture, dtype=np.float32)  # from 0 to 1

    pictures: Tensor = torch.from_numpy(
        np.stack([grey_levels(row.completion) for row in drawn.rows])
    ).flatten(1)
    apart = torch.cdist(pictures[None], pictures[None])[0] / pictures.shape[1] ** 0.5
    group = drawn.group.cpu()
    same = (group[:, None] == group[None]) & ~torch.eye(len(group), dtype=torch.bool)
    return float(apart[same].mean())


def _kl(ctx: RunContext, model: nn.Module, drawn: Rollout, final: Path) -> float:
    """Exact KL(policy || start) along the policy's own pictures, in nats per picture."""
    import torch

    from mmalign.objectives.kl import gaussian_kl

    start = ctx.load_model(ctx.base_model())
    batch = ctx.adapter.collate(drawn.rows)
    with torch.no_grad():
        now, before = (ctx.adapter.logp(each, batch).moments for each in (model, start))
    if now is None or before is None:
        raise UserError(f"{final}: modality {ctx.adapter.name!r} gives no Gaussian steps to measure a KL on")
    return float(gaussian_kl(now[0], before[0], now[1], batch.mask).sum(1).mean())
