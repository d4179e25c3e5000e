"""Sort photos into folders, one for each class that a model sees, and undo it."""
