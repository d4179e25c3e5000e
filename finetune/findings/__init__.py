"""What to do next, in the order of what it would gain. Never imports Keras."""
