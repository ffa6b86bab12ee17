"""Counted floating-point operations of a step, and what the machine's own matrix product reaches."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mmalign.bench.definition import Step

__all__ = ["count_flops", "gemm_peak"]

_SIZE = 1024


def gemm_peak(repeats: int = 7) -> float:
    """FLOP per CPU second of ``torch.mm`` on 1024 x 1024 float32: median of ``repeats``, after one warm-up."""
    left, right = torch.randn(_SIZE, _SIZE), torch.randn(_SIZE, _SIZE)
    torch.mm(left, right)
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        torch.mm(left, right)
        seconds.append(time.process_time() - start)
    return 2.0 * _SIZE**3 / statistics.median(seconds)


def count_flops(step: Step) -> float:
    """FLOP of matrix products, convolutions and attention in one run, forward and backward.

    Norms, activations, softmax and sampling are not counted, so the share of the peak is a lower bound of how busy
    the step keeps the machine; causal attention counts the full square, as torch's own counter does.
    """
    aten: Any = torch.ops.aten
    with FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: _attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        },
    ) as counter:
        step.run(step.prepare())
    return float(counter.get_total_flops())


def _attention(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **named: Any) -> int:
    del rest, out_shape, named
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(
    grad: Any, query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **named: Any
) -> int:
    del rest, out_shape, named
    return int(sdpa_backward_flop_count(grad, query, key, value))
