"""VGG16's architecture, stated once; the Keras, ONNX and ncnn builders read it from here."""

LAYERS = {
    f"block{block}_conv{conv}": filters
    for block, (convs, filters) in enumerate(
        [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], start=1
    )
    for conv in range(1, convs + 1)
}
"""Name of each convolution, in order, and its number of filters."""

IMAGENET_MEANS_BGR = (103.939, 116.779, 123.68)
"""What the network expects to be subtracted from blue, green and red, 0..255."""
