"""What the bundled tasks share: composites turned into the metrics of ``results.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmalign.stats.composite import Composite

__all__ = ["CompositeTask"]


class CompositeTask:
    """The half of a task that turns counts into metrics; subclasses give ``rows`` and ``score``.

    The metrics are composites of per-sample counts.

    Args:
        name: the registered name.
        version: raised whenever rows or counts change meaning.
        parser_label: name and version of what reads the answers.
        composites: the metrics; the report uses them for paired differences.
        data_info: source and split, stored in every sample.
        headline: names of the metrics a reader wants first.
    """

    def __init__(
        self,
        name: str,
        version: str,
        parser_label: str,
        composites: Mapping[str, Composite],
        data_info: Mapping[str, Any],
        headline: Sequence[str] = (),
    ) -> None:
        self.name, self.version, self.parser_label = name, version, parser_label
        self.composites, self.data_info, self.headline = composites, dict(data_info), tuple(headline)

    def metrics(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Every composite over the samples, with intervals."""
        return {name: composite.record(samples) for name, composite in self.composites.items()}
