"""Image files to labelled, split pixels."""
