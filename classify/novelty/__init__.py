"""Novelty detection: how far a photo is from the photos that a head was trained on."""
