"""Photos to Keras networks to results, and the comparison of all results."""
