"""Results to a comparison: records, significance, suspects, verdict. It never imports Keras."""
