"""VGG16: the recipe, the weights, the architecture, and the models that are built from them."""
