"""A head or network as one file for use elsewhere: photo in, probabilities out."""
