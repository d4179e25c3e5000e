"""The README of a model: what it learned from, how good it is, its limits, and how to use it."""
