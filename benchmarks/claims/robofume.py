"""RoboFuME: a pre-trained policy improves online, reset-free, on a learned reward.  See docs/objectives/robofume.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmalign.benchmarks.claims.control import PROGRESS, SUCCESS, better, must, report
from mmalign.claims.definition import Arm, Claim, Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import at_least
from mmalign.guards.precision import precision_alarm

__all__ = ["CLAIM"]

STAGE = "offline_rl"
RECORDED = {"offline_rl.rewards": "recorded", "model.options.stop_on_success": True}


def _arm(name: str, text: str, changes: dict[str, Any], stages: tuple[str, ...], kind: str = "train") -> Arm:
    reuses = None if name == "clone" else "clone"
    return Arm(name, changes, kind=kind, stages=stages, reuses=reuses, text=text)  # type: ignore[arg-type]


def resets_are_scheduled(results: Results) -> Verdict:
    """Everything was put back exactly as often as the schedule says: rarely, beside the number of episodes."""
    rooms: dict[str, list[float]] = {}
    for cell in results.cells("online"):
        section = results.document("online", "config.json", cell)[STAGE]
        episodes, every = section["online_steps"] * section["episodes"], section["reset_every"]
        resets = results.curve("online", STAGE, "collect/resets", cell)[-1]
        if resets != -(-episodes // every):
            return Verdict(
                "fails", resets, text=f"{resets:g} resets in {episodes} episodes, one per {every} wanted"
            )
        rooms.setdefault(cell.start, []).append(episodes / resets)
    value = next(iter(rooms.values()))[0]
    return Verdict("holds", value, text=f"one reset in {value:g} episodes, as scheduled, in every cell")


def _claims(results: Results, arm: str) -> tuple[list[float], list[float]]:
    """Claims and wrong claims of every online step, over all cells."""
    made: list[float] = []
    wrong: list[float] = []
    for cell in results.cells(arm):
        episodes = results.document(arm, "config.json", cell)[STAGE]["episodes"]
        for name, column in (("claimed", made), ("false_claim", wrong)):
            column += [episodes * share for share in results.curve(arm, STAGE, f"collect/{name}", cell)]
    return made, wrong


def precise_where_the_policy_goes(results: Results) -> Verdict:
    """At least 8 of 10 claims on visited states are right, and the alarm is silent."""
    alarm, precision = precision_alarm(*_claims(results, "online"))
    if precision is None:
        return Verdict("inconclusive", text="the classifier never claimed success")
    good = precision >= 0.8 and not alarm
    return Verdict("holds" if good else "fails", precision, text=f"precision {precision:.2f}, alarm {alarm}")


def planted_rings(results: Results) -> Verdict:
    """With the planted shortcut the alarm fires."""
    alarm, precision = precision_alarm(*_claims(results, "planted"))
    shown = "none" if precision is None else f"{precision:.2f}"
    return Verdict("holds" if alarm else "fails", precision, text=f"precision {shown}, alarm {alarm}")


def planted_is_exploited(results: Results) -> Verdict:
    """The planted classifier claims success far more often than there is any."""
    room: dict[str, list[float]] = {}
    for cell in results.cells("planted"):
        claimed = results.curve("planted", STAGE, "collect/claimed", cell)[-5:]
        true = results.curve("planted", STAGE, "collect/true", cell)[-5:]
        room.setdefault(cell.start, []).append((sum(claimed) - sum(true)) / len(claimed) - 0.3)
    return at_least(room, 0.0, unit="points")


ONLINE = (STAGE, "evaluate")
LEARNED = ("reward_model", STAGE, "evaluate")
CLAIM = Claim(
    name="robofume",
    title="Cal-QL pre-training, then reset-free fine-tuning on a learned success classifier, beats cloning and offline",
    source="Yang et al. (2023), RoboFuME, arXiv:2310.15145; statements of mmalign's own",
    arms=(
        _arm("clone", "all recordings cloned", {"evaluate.include_start": True}, ("sft", "evaluate"), "start"),
        _arm("online", "Cal-QL, then online without resets on the classifier", {}, LEARNED),
        _arm("offline", "Cal-QL on the recordings alone, as many updates",
             {"offline_rl.offline_steps": 98, "offline_rl.online_steps": 0}, LEARNED, "baseline"),
        _arm("oracle", "the same with the environment's own reward", RECORDED, ONLINE, "baseline"),
        _arm("planted", "control: a classifier that also takes a closed gripper for success",
             {"reward.name": "success_planted"}, LEARNED),
        _arm("shuffled", "control: a classifier of permuted marks", {"reward_model.ranking.shuffle": True}, LEARNED),
    ),
    statements=(
        must("F1", "online beats the cloned start", better("online", "clone")),
        must("F2", "online beats as many updates on the recordings alone", better("online", "offline")),
        must("F3", "resets happen when scheduled and never else", resets_are_scheduled),
        must("F4", "8 of 10 claims are right on the states that the policy visits", precise_where_the_policy_goes),
        must("F5", "a planted false positive makes the alarm fire", planted_rings),
        must("F6", "online beats the same on a classifier of permuted marks", better("online", "shuffled")),
        report("T1", "the environment's own reward bounds it", better("oracle", "online")),
        report("T2", "the policy goes for the planted false positive", planted_is_exploited),
    ),
    recipe="robofume",
    overrides={"evaluate.include_start": False},
    quick={"reward_model.max_steps": 3, "sft.max_steps": 3, "offline_rl.offline_steps": 2, "offline_rl.online_steps": 2,
           "offline_rl.updates": 2, "offline_rl.n_offline": 12, "data.n_train": 12, "evaluate.n": 8,
           "reward_model.ranking.n_train": 8, "reward_model.ranking.n_heldout": 8},
    equal=("seed", "modality", "model", "data", "sft", "reward_model", "offline_rl", "evaluate"),
    vary=("reward.name", "reward_model.ranking.shuffle"),
    seeds=5,
    tables={"success": SUCCESS, "progress": PROGRESS},
    curves=("collect/true", "collect/claimed", "collect/false_claim"),
    recorded=Path(__file__).parent / "verdicts" / "robofume.json",
)  # fmt: skip
"""The claim, found through the registry as ``robofume``."""
