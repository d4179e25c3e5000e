"""From results to a comparison: records, significance, suspects, verdict. Never imports Keras."""
