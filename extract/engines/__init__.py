"""A batch of pixels to taps: the interface, the engines, the choice between them."""
