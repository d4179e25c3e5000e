"""The map of the photos: where each lies, what is known of it, and its picture. Without Keras."""
