"""The one place where Keras is imported, with its environment set before TensorFlow reads it."""

import os

# TensorFlow leaves oneDNN off on some processors.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

__all__ = ["keras"]
