"""Photos to features: the only room that knows image files, folders, VGG16 and the feature store."""
