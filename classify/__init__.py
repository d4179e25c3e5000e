"""From features to heads to results. Nothing here imports Keras or TensorFlow."""

HEADS = ("logistic", "svm", "mlp")
"""The names of the heads. `classify.heads.HEADS` has the rest, and takes a second to import."""
