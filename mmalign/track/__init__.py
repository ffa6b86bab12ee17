"""Trackers: ``metrics.jsonl`` always, TensorBoard, Weights & Biases and trackio when asked for."""
