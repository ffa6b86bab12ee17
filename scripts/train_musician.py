"""Make what the tunes world ships: codec, listeners, reward models and the starting model, on one thread.

In this order (each part reads the ones before it; README.json beside each holds its command, plan and figures)::

    python scripts/train_musician.py codec
    python scripts/train_musician.py judge
    python scripts/train_musician.py ear
    python scripts/train_musician.py reference
    python scripts/train_musician.py towers
    python scripts/train_musician.py quality
    python scripts/train_musician.py base --work runs/musician
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mmalign.worlds.tunes.codec import BandCodec
from mmalign.worlds.tunes.corpus import caption_ids, make_pool
from mmalign.worlds.tunes.listener import (
    EAR,
    JUDGE,
    Listener,
    ListenerPlan,
    accuracy,
    attributes_heard,
    save_net,
    train_listener,
)
from mmalign.worlds.tunes.model import BASE, make_model
from mmalign.worlds.tunes.pretrain import PretrainPlan, code_loss, pretrain
from mmalign.worlds.tunes.probe import opinion_errors, probe, tell_apart
from mmalign.worlds.tunes.quality import QUALITY, QualityPlan, train_quality
from mmalign.worlds.tunes.reference import REFERENCE, make_reference
from mmalign.worlds.tunes.ship import file_sha256, ship
from mmalign.worlds.tunes.towers import TOWERS, TowersPlan, train_towers
from mmalign.worlds.tunes.tune import tune_at

CODEC_PIECES = 1500
PLANS = {
    "judge": ListenerPlan(),
    "ear": ListenerPlan(seed=1, stream="ear", pieces=2000, steps=350, width=12, features=32),
}


def log(text: str) -> None:
    """Print a line at once, with the CPU seconds so far."""
    print(f"[{time.process_time():6.0f} s] {text}", flush=True)


def record(folder: Path, name: str, content: dict[str, Any]) -> None:
    """Put ``content`` under ``name`` into the folder's README.json."""
    path = folder / "README.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**known, name: content}, indent=1) + "\n")


def train_codec(args: argparse.Namespace) -> None:
    """Fit the codec into the base's folder."""
    pool = make_pool("train", CODEC_PIECES, args.seed, "codec")
    BASE.mkdir(parents=True, exist_ok=True)
    codec = BandCodec.fit(pool.bands.float(), seed=args.seed)
    log(f"sha256 {file_sha256(codec.save(BASE))}")


def train_listeners(args: argparse.Namespace) -> None:
    """Train the judge or the ear and measure it on validation pieces, as rendered and through the codec."""
    plan = replace(PLANS[args.part], steps=args.steps or PLANS[args.part].steps)
    path = JUDGE if args.part == "judge" else EAR
    codec = BandCodec.load(BASE)
    pool = make_pool("every", plan.pieces, plan.seed, plan.stream)
    model, cpu = train_listener(plan, pool, codec, lambda step, loss: log(f"step {step} loss {loss:.4f}"))
    save_net(model, path)
    held = make_pool("every", 1000, plan.seed + 100, plan.stream)
    truth = [tune.attributes for tune in held.tunes]
    coded = codec.bands(held.codes(codec).long())
    figures = {
        "rendered": accuracy(attributes_heard(model, held.bands), truth),
        "through_codec": accuracy(attributes_heard(model, coded), truth),
    }
    log(json.dumps(figures))
    content = {
        "command": f"python scripts/train_musician.py {args.part}",
        "plan": asdict(plan),
        "held_out": {"pieces": len(held), **figures},
        "cpu_seconds": round(cpu),
        "sha256": file_sha256(path),
    }
    record(path.parent, path.stem, content)


def make_statistics(args: argparse.Namespace) -> None:
    """Write what real pieces are like in the ear's features."""
    save_file(make_reference(Listener.load(EAR), BandCodec.load(BASE)), REFERENCE)
    REFERENCE.chmod(0o644)
    record(
        REFERENCE.parent,
        "reference",
        {"command": f"python scripts/train_musician.py {args.part}", "sha256": file_sha256(REFERENCE)},
    )


def train_contrastive(args: argparse.Namespace) -> None:
    """Train the towers and ask them which of two captions is the true one, one mention apart."""
    plan, codec = TowersPlan(), BandCodec.load(BASE)
    pool = make_pool("train", plan.pieces, plan.seed, "towers")
    model, cpu = train_towers(plan, pool, codec, lambda step, loss: log(f"step {step} loss {loss:.4f}"))
    save_net(model, TOWERS)
    held = make_pool("validation", 600, plan.seed, "towers")
    figures = tell_apart(model, held, codec)
    log(json.dumps(figures))
    content = {
        "command": f"python scripts/train_musician.py {args.part}",
        "plan": asdict(plan),
        "prefers_true_mention": figures,
        "cpu_seconds": round(cpu),
        "sha256": file_sha256(TOWERS),
    }
    record(TOWERS.parent, "towers", content)


def train_opinion(args: argparse.Namespace) -> None:
    """Train the quality net and measure error and bias against the severity of fresh damage."""
    plan, codec = QualityPlan(), BandCodec.load(BASE)
    pool = make_pool("train", plan.pieces, plan.seed, "quality")
    model, cpu = train_quality(plan, pool, codec, lambda step, loss: log(f"step {step} loss {loss:.4f}"))
    save_net(model, QUALITY)
    held = make_pool("validation", 600, plan.seed, "quality")
    figures = opinion_errors(model, held, codec, plan.seed + 100)
    log(json.dumps(figures))
    content = {
        "command": f"python scripts/train_musician.py {args.part}",
        "plan": asdict(plan),
        "held_out": figures,
        "cpu_seconds": round(cpu),
        "sha256": file_sha256(QUALITY),
    }
    record(QUALITY.parent, "quality", content)


def _codes(plan: PretrainPlan, codec: BandCodec, work: Path) -> torch.Tensor:
    """Codes of the training pieces, kept in ``work`` for a run that goes on."""
    kept = work / "codes.safetensors"
    if kept.is_file():
        return load_file(kept)["codes"]
    parts = [
        make_pool("train", min(1000, plan.pieces - first), plan.seed, "pretrain", first).codes(codec)
        for first in range(0, plan.pieces, 1000)
    ]
    work.mkdir(parents=True, exist_ok=True)
    save_file({"codes": torch.cat(parts)}, kept)
    return torch.cat(parts)


def train_base(args: argparse.Namespace) -> None:
    """Train the starting model; every checkpoint leaves a whole folder under ``--work``."""
    plan = PretrainPlan(seed=args.seed, steps=args.steps or PretrainPlan().steps)
    codec = BandCodec.load(BASE)
    judge = Listener.load(args.judge)
    codes = _codes(plan, codec, args.work)
    tunes = tuple(tune_at("train", plan.seed, i, "pretrain") for i in range(plan.pieces))
    log(f"{len(tunes)} pieces")
    held = make_pool("validation", 256, plan.seed, "pretrain")
    held_codes = held.codes(codec).long()
    model = make_model(plan.seed)
    command = f"python scripts/train_musician.py base --steps {plan.steps}"

    @torch.no_grad()
    def measured(step: int, loss: float) -> dict[str, Any]:
        ids, mask = caption_ids(list(held.tunes), None, plan.seed, 0)
        with_caption = code_loss(model, held_codes, ids, mask, torch.zeros(len(held), dtype=torch.bool))
        figures, _ = probe(model, codec, judge, n=200)
        found = {"step": step, "train_loss": round(loss, 4), "loss": round(float(with_caption.mean()), 4)}
        return {**found, "adherence": figures}

    def after(step: int, loss: float) -> None:
        figures = measured(step, loss)
        log(json.dumps(figures))
        ship(model, codec, args.work / "interim", {"command": command, "interim": figures})

    cpu = pretrain(
        model, codes, tunes, plan, checkpoint=args.work / "state.pt", every=args.every, after=after
    )
    decodings = {
        f"temperature {t}, guidance {g}": probe(model, codec, judge, n=400, temperature=t, guidance=g)[0]
        for t, g in ((1.0, 1.0), (0.7, 1.0), (1.0, 2.5), (0.7, 2.5))
    }
    content = {
        "command": command,
        "plan": asdict(plan),
        "validation_adherence": decodings,
        "cpu_seconds": round(cpu),
    }
    log(json.dumps(decodings))
    log(ship(model, codec, args.out, content))


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "codec": train_codec,
    "judge": train_listeners,
    "ear": train_listeners,
    "reference": make_statistics,
    "towers": train_contrastive,
    "quality": train_opinion,
    "base": train_base,
}


def main() -> None:
    """Read the command line and train one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="other than the plan's")
    parser.add_argument("--out", type=Path, default=BASE, help="folder of the finished base")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/musician"), help="state of a base in the making"
    )
    parser.add_argument("--judge", type=Path, default=JUDGE, help="who measures the base on the way")
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    args = parser.parse_args()
    torch.set_num_threads(1)
    PARTS[args.part](args)


if __name__ == "__main__":
    main()
