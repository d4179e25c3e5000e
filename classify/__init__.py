"""From features to heads to results. Nothing here imports Keras or TensorFlow."""
