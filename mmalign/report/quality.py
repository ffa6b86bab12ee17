"""Tables about judges, reward models, feedback labels and the claim, as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmalign.report.collect import Run
from mmalign.report.headline import number, pretty

__all__ = ["claim_view", "label_table", "quality_tables"]

_TITLES = {"reward_model": "Reward models, held-out segments", "judge": "Judge against the truth"}
_LABELS = (("true", "1", "+1"), ("false", "-1"), ("none", "0"))
_VIEWS = {"all": "all segments, three labels", "applicable": "where the type applies: true or false?"}


def quality_tables(run: Run) -> list[dict[str, Any]]:
    """Return a table per source (and view, where the file has views) with a row per type."""
    tables = []
    for source, content in run.quality.items():
        for view, by_type in _views(content).items():
            rows = [_row(kind, entry) for kind, entry in by_type.items() if isinstance(entry, Mapping)]
            if rows:
                title = _TITLES.get(source, pretty(source))
                tables.append({"title": title, "view": _VIEWS.get(view, view), "rows": rows})
    return tables


def _views(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``{type: {view: {...}}}`` becomes ``{view: {type: {...}}}``; a flat file is one unnamed view."""
    nested: dict[str, dict[str, Any]] = {}
    for kind, entry in content.items():
        if not isinstance(entry, Mapping):
            continue
        views = {name: part for name, part in entry.items() if isinstance(part, Mapping) and "n" in part}
        for name, part in (views or {"": entry}).items():
            nested.setdefault(name, {})[kind] = part
    order = ["applicable", "all"]
    return dict(
        sorted(nested.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    )


def _row(kind: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    accuracy, majority = entry.get("accuracy"), entry.get("majority")
    gain = None if accuracy is None or majority is None else accuracy - majority
    return {"type": kind, "entry": entry, "gain": gain, "ece": number(entry.get("ece"), percent=False)}


def label_table(counts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return feedback label counts as rows (part, type, true, false, not applicable, n)."""
    rows = []
    for part, types in counts.items():
        for kind, found in types.items() if isinstance(types, Mapping) else ():
            if not isinstance(found, Mapping):
                continue
            true, false, unclear = (_count(found, names) for names in _LABELS)
            total = true + false + unclear
            if total:
                shares = {
                    "true": 100 * true / total,
                    "false": 100 * false / total,
                    "unclear": 100 * unclear / total,
                }
                rows.append({"part": part, "type": kind, "true": true, "false": false, "unclear": unclear, **{
                    f"{name}_share": round(share, 2) for name, share in shares.items()
                }})  # fmt: skip
    return rows


def _count(found: Mapping[str, Any], names: tuple[str, ...]) -> int:
    return int(sum(found.get(name, 0) for name in names))


def claim_view(claim: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the claim with its arms as a table: metrics in columns, arms in rows; None without a claim."""
    if not claim:
        return None
    arms = claim.get("arms") or {}
    metrics = list(dict.fromkeys(metric for values in arms.values() for metric in values))
    statements = [{**statement, "holds": _holds(statement)} for statement in claim.get("statements") or ()]
    percent = {metric: _is_share(metric, arms) for metric in metrics}
    return {
        "name": claim.get("claim", ""),
        "statements": statements,
        "metrics": metrics,
        "percent": percent,
        "arms": arms,
        "seeds": claim.get("seeds") or [],
        "held": sum(statement["holds"] for statement in statements),
    }


def _holds(statement: Mapping[str, Any]) -> bool:
    verdict = statement.get("verdict")
    return verdict is True or str(verdict).lower() in ("holds", "true", "yes", "pass", "passed", "held")


def _is_share(metric: str, arms: Mapping[str, Any]) -> bool:
    means = [(values.get(metric) or {}).get("mean") for values in arms.values()]
    known = [value for value in means if value is not None]
    return (
        bool(known)
        and "_per_" not in metric
        and "kl" not in metric
        and all(0 <= value <= 1 for value in known)
    )
