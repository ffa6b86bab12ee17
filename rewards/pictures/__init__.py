"""Rewards of pictures: file size, brightness, CLIP-type scores, ImageReward, a judge's opinion.

Each is a plain reward (``reward.name``), called with a rollout or, where it can be differentiated, with pictures.
"""
