"""The diffusion modality: any known diffusers pipeline as a maker of denoising trajectories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.config.options import read_options
from mmalign.errors import UserError
from mmalign.modalities.diffusion.backbones import Backbone
from mmalign.modalities.diffusion.loading import attach_lora, load_policy, policy_around, save_policy
from mmalign.modalities.diffusion.options import DiffusionOptions
from mmalign.modalities.diffusion.personalise import learn_word, prompt_states, words_written
from mmalign.modalities.diffusion.pictures import picture_key, pixels_of, prompt_of
from mmalign.modalities.diffusion.policy import DiffusionPolicy, policy_of
from mmalign.modalities.diffusion.sampling import differentiable_pictures, draw_pictures
from mmalign.modalities.diffusion.scoring import score_pictures, score_steps
from mmalign.modalities.diffusion.steps import Denoising, padded_steps
from mmalign.modalities.tokens.lora import merged
from mmalign.modalities.vision.media import png_bytes
from mmalign.types import Batch, LogP, Rollout, Row, Speed

__all__ = ["DiffusionAdapter"]


class DiffusionAdapter:
    """Scores, samples and trains text-to-image pipelines.

    A step is one denoising step.  Where a row carries recorded steps, ``logp`` is their true Gaussian log-density;
    where it carries a picture alone, ``logp`` is a surrogate, minus its denoising error.
    """

    name = "diffusion"
    row_streams = True
    scores_bare_steps = True
    random_start = True

    def __init__(self, options: DiffusionOptions | None = None, *, speed: Speed | None = None) -> None:
        self.options = options if options is not None else DiffusionOptions()
        self.speed = speed if speed is not None else Speed()
        self._backbone: Backbone | None = None

    def configure(self, options: Mapping[str, Any]) -> None:
        """Replace all settings by the defaults with ``options`` over them.

        Raises:
            UserError: for an unknown key (naming the nearest) or a value that does not fit.
        """
        self.options = read_options(DiffusionOptions, options)

    def load(self, source: str, *, device: str = "cpu", dtype: str = "float32") -> nn.Module:
        """Load a pipeline from a folder or hub name; its denoiser trains, everything else is frozen.

        Raises:
            UserError: when the source is no pipeline known here, or DDIM is asked of a flow.
        """
        return self._known(load_policy(source, device=device, dtype=dtype))

    def adopt(self, pipeline: Any) -> nn.Module:
        """Use a pipeline that is already in memory.

        Raises:
            UserError: as :meth:`load`.
        """
        return self._known(policy_around(pipeline))

    def _known(self, policy: DiffusionPolicy) -> nn.Module:
        if policy.backbone.flow and self.options.sampler == "ddim":
            kind = type(policy.backbone.pipeline).__name__
            raise UserError(
                f"model.options: {kind} matches flows, which have no DDIM step; use sampler: sde or ode"
            )
        self._backbone = policy.backbone
        return policy

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the pipeline with LoRA merged in; its class's ``from_pretrained`` loads it."""
        with words_written(policy_of(model)):
            save_policy(model, Path(folder))

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Recorded steps ``[B, K, C, H, W]`` where rows have them, else their pictures ``[B, 3, H, W]``.

        With ``score: denoising`` recorded steps are taken of rows alone that have no picture.

        Raises:
            UserError: naming a row that has neither, or whose kind is not that of the first.
        """
        if not rows:
            raise UserError("there are no rows to collate")
        auto = self.options.score == "auto"
        recorded = [isinstance(row.steps, Denoising) and (auto or row.completion is None) for row in rows]
        if len(set(recorded)) > 1:
            odd = rows[recorded.index(not recorded[0])]
            raise UserError(f'row "{odd.id}": a batch holds drawn steps or given pictures, not both')
        if recorded[0]:
            return self._recorded(rows)
        if self._backbone is None:
            raise UserError("the diffusion adapter has no model yet: call load() first")
        size = self._backbone.size(self.options)
        pixels = torch.stack([pixels_of(row, size) for row in rows])
        inputs = {"pixels": pixels, "keys": [picture_key(row) for row in rows]}
        return Batch(tuple(rows), inputs, torch.ones(len(rows), 1, dtype=torch.bool))

    def _recorded(self, rows: Sequence[Row]) -> Batch:
        steps: list[Denoising] = [row.steps for row in rows]
        odd = next((row for row in rows if row.steps.num_steps != steps[0].num_steps), None)
        if odd is not None:
            raise UserError(
                f'row "{odd.id}": drawn in {odd.steps.num_steps} steps, the first in {steps[0].num_steps}'
            )
        before, after, index, mask = padded_steps(steps)
        inputs = {"before": before, "after": after, "index": index, "num_steps": steps[0].num_steps}
        return Batch(tuple(rows), inputs, mask)

    def logp(
        self,
        model: nn.Module,
        batch: Batch,
        rng: torch.Generator | None = None,
        *,
        entropy: bool = False,
        hidden: bool = False,
        temperature: float = 1.0,
    ) -> LogP:
        """Log-density ``[B, K]`` of recorded steps, or the surrogate ``[B, 1]`` of pictures drawn from ``rng``.

        ``temperature`` multiplies the sampler's noise; 0 scores as 1.  There are no hidden states for a critic, so
        ``hidden`` gives none.
        """
        del hidden
        if "pixels" in batch.inputs:
            return score_pictures(model, batch, self._plain(), rng)
        return score_steps(model, batch, self._plain(), entropy=entropy, temperature=temperature)

    def sample(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        n: int,
        rng: torch.Generator | Sequence[torch.Generator],
        *,
        temperature: float = 1.0,
        max_steps: int = 128,
    ) -> Rollout:
        """Draw ``n`` pictures per row in at most ``max_steps`` denoising steps.

        Temperature 1 is the stochastic sampler, 0 the deterministic one from a random start; between them the noise
        of each step is multiplied by it while marginals stay.  ``rng`` is one generator, or one per row.
        """
        if not rows or n < 1 or max_steps < 1:
            raise UserError(
                f"nothing to sample: {len(rows)} rows, n={n}, max_steps={max_steps}; each must be at least 1"
            )
        training = model.training
        model.eval()
        try:
            with merged(model, self.speed.merge_lora):
                return draw_pictures(
                    model, rows, n, rng, self._plain(), temperature=temperature, max_steps=max_steps
                )
        finally:
            model.train(training)

    def sample_differentiable(
        self, model: nn.Module, rows: Sequence[Row], rng: torch.Generator, grad_steps: int
    ) -> Tensor:
        """Pictures ``[B * n, 3, H, W]`` from 0 to 1 with gradient through the last ``grad_steps`` denoiser calls only.

        ``n`` is ``last_draws``.
        """
        return differentiable_pictures(model, rows, rng, grad_steps, self._plain())

    def attach_lora(
        self, model: nn.Module, *, r: int, alpha: int, target_modules: Sequence[str] | str, seed: int
    ) -> nn.Module:
        """Attach LoRA to every linear layer of the denoiser (``all-linear``) or to the named ones."""
        return attach_lora(policy_of(model), r, alpha, target_modules, seed)

    def learn_word(self, model: nn.Module, *, word: str, like: str) -> nn.Module:
        """Add ``word``, which starts as ``like``; it and the keys and values that read prompts train, nothing else."""
        learn_word(policy_of(model), word, like)
        return model

    def prompt_states(self, model: nn.Module, prompts: Sequence[str]) -> Tensor:
        """What the text encoders make of whole prompts, ``[B, D]``."""
        return prompt_states(policy_of(model), prompts)

    def blank(self, row: Row) -> Row:
        """The row with the empty prompt: what a picture must depend on is its prompt."""
        return replace(row, prompt="")

    def borrow(self, row: Row, other: Row) -> Row:
        """The row's picture under another row's prompt."""
        return replace(row, prompt=other.prompt)

    def show(self, row: Row) -> Mapping[str, Any]:
        """The picture, where there is one, and the prompt."""
        pictures = [] if row.completion is None else [png_bytes(row.completion, row.id)]
        return {"images": pictures, "text": prompt_of(row)}

    def _plain(self) -> DiffusionOptions:
        """The settings, caches off where the ``speed`` section says so."""
        if self.speed.cache_towers:
            return self.options
        return self.options.model_copy(update={"cache_text": False, "cache_latents": False})
