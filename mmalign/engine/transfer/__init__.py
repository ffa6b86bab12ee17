"""Supervised transfer of a backbone to small tasks that fit in memory: one fit, one score, what both cost."""
