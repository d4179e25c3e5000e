"""Novelty detection: how far a photo is from the photos that a head was trained on."""

KEEP = 0.95
"""The share of known photos that is kept unless another is asked for."""
