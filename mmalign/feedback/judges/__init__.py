"""Who verifies facts: a world's oracle, a model, an endpoint, or people."""

from __future__ import annotations

from mmalign.feedback.judges.endpoint import EndpointJudge
from mmalign.feedback.judges.hf import HFJudge
from mmalign.feedback.judges.human import HumanJudge
from mmalign.feedback.judges.scenes import SceneJudge

__all__ = ["EndpointJudge", "HFJudge", "HumanJudge", "SceneJudge"]
