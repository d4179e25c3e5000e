"""Engines, which turn a batch of pixels into taps, and the choice between them."""
