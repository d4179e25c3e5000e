"""Keras networks: the networks, their training data, the training loop."""
