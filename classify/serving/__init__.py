"""Use a trained model: predictions for new photos, and a web page to try them on."""

UNSURE = 0.6
"""A photo whose most probable class is less probable than this is called unsure. With two classes,
a probability of one half means that the model knows nothing."""

HOST = "127.0.0.1"
PORT = 8765
"""Where the page is, unless the user chooses otherwise: on this machine only."""
