"""Features to heads to results. Nothing here imports Keras or TensorFlow."""
