"""The engine: one optimisation step, the offline and online loops, checkpoints with exact resume."""
