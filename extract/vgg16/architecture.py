"""VGG16's architecture, stated once: the Keras, ONNX and ncnn builders only walk these lists.

Karen Simonyan and Andrew Zisserman, "Very deep convolutional networks for large-scale image
recognition", arXiv 1409.1556, configuration D without its fully connected layers.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.vgg16 import pairs


class Convolution(NamedTuple):
    """A convolution of 3 x 3 pixels, stride 1, on a map padded with zeros, followed by ReLU."""

    name: str
    inputs: int
    filters: int


class MaxPool(NamedTuple):
    """The maximum of every 2 x 2 pixels, stride 2."""

    name: str


class Tap(NamedTuple):
    """A pooled output of a layer.

    Attributes
    ----------
    name : str
    source : str
        The layer whose output is pooled.
    pooling : str
        ``avg`` and ``max`` pool each channel over all positions. ``avg3x3`` averages each channel
        over nine windows, see `windows`; its values are ordered by window row, window column,
        channel. ``pairs`` keeps products of two channels, see `extract.vgg16.pairs`.
    width : int
        The number of values, the same for photos of every size.
    """

    name: str
    source: str
    pooling: Literal["avg", "max", "avg3x3", "pairs"]
    width: int

    def positions(self, size: int) -> int:
        """Return how many positions the source has for photos of a size."""
        height, width, _ = output_shapes(size)[self.source]
        return height * width


LAYERS = (
    Convolution("block1_conv1", 3, 64),
    Convolution("block1_conv2", 64, 64),
    MaxPool("block1_pool"),
    Convolution("block2_conv1", 64, 128),
    Convolution("block2_conv2", 128, 128),
    MaxPool("block2_pool"),
    Convolution("block3_conv1", 128, 256),
    Convolution("block3_conv2", 256, 256),
    Convolution("block3_conv3", 256, 256),
    MaxPool("block3_pool"),
    Convolution("block4_conv1", 256, 512),
    Convolution("block4_conv2", 512, 512),
    Convolution("block4_conv3", 512, 512),
    MaxPool("block4_pool"),
    Convolution("block5_conv1", 512, 512),
    Convolution("block5_conv2", 512, 512),
    Convolution("block5_conv3", 512, 512),
    MaxPool("block5_pool"),
)
"""The layers after the preprocessing, each fed by the one before it."""

CONVOLUTIONS = {layer.name: layer for layer in LAYERS if isinstance(layer, Convolution)}
"""The 13 convolutions by name, in order."""

TAP_LAYERS = (
    Tap("block5_avg", "block5_conv3", "avg", 512),
    Tap("block5_avg3x3", "block5_pool", "avg3x3", 4608),
    Tap("block5_max", "block5_conv3", "max", 512),
    Tap("block4_avg", "block4_conv3", "avg", 512),
    Tap("block4_max", "block4_conv3", "max", 512),
    Tap("block3_avg", "block3_conv3", "avg", 256),
    Tap("block3_max", "block3_conv3", "max", 256),
    Tap("block4_pairs", "block4_pool", "pairs", pairs.BINS),
)
"""The taps: first those of single channels, deepest first, then that of pairs."""

IMAGENET_MEANS_BGR = (103.939, 116.779, 123.68)
"""The means that are subtracted from blue, green and red, on the scale 0..255."""

FILTERS_FIRST = (3, 2, 0, 1)
"""Transposes a kernel from Keras's axes, which are used here, to those of ONNX and ncnn.

Keras's axes are (height, width, inputs, filters); theirs are (filters, inputs, height, width).
"""

FILTERS_LAST = (2, 3, 1, 0)
"""Transposes a kernel from the axes of ONNX and ncnn to Keras's."""


def layers_for(outputs: Iterable[str]) -> tuple[Convolution | MaxPool, ...]:
    """Return the layers that compute some outputs, taps or layers; none comes after the deepest."""
    sources = {tap.name: tap.source for tap in TAP_LAYERS}
    names = [layer.name for layer in LAYERS]
    deepest = max(names.index(sources.get(output, output)) for output in outputs)
    return LAYERS[: deepest + 1]


def preprocessing() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return kernel and bias of the 1 x 1 convolution that turns RGB into BGR minus the means.

    A convolution reorders the channels exactly, and every format can save it.

    Returns
    -------
    kernel : ndarray of shape (1, 1, 3, 3), float32
    bias : ndarray of shape (3,), float32
    """
    kernel = np.eye(3, dtype=np.float32)[::-1].reshape(1, 1, 3, 3)
    return kernel, -np.array(IMAGENET_MEANS_BGR, np.float32)


def weight_shapes() -> list[tuple[int, ...]]:
    """Return the shapes of the 26 arrays: kernel and bias of each convolution, in order."""
    return [
        shape
        for layer in CONVOLUTIONS.values()
        for shape in [(3, 3, layer.inputs, layer.filters), (layer.filters,)]
    ]


def output_shapes(size: int) -> dict[str, tuple[int, int, int]]:
    """Return the (height, width, channels) of every layer's output for photos of a size."""
    side, channels = size, 3
    shapes = {}
    for layer in LAYERS:
        if isinstance(layer, Convolution):
            channels = layer.filters
        else:
            side //= 2
        shapes[layer.name] = (side, side, channels)
    return shapes


def windows(size: int) -> tuple[int, int]:
    """Return side and stride of the nine windows of ``block5_avg3x3`` for photos of a size.

    The windows cover all of ``block5_pool``, whose side is a 32nd of the photo's. They are 3 wide
    with a stride of 2 on 7 x 7 positions, and 4 wide with a stride of 3 on 10 x 10 positions.
    """
    side = size // 32
    stride = max(1, (side - 1) // 3)
    return side - 2 * stride, stride
