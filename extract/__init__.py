"""Photos to features: the one room that knows image files, folders, VGG16 and the store."""
