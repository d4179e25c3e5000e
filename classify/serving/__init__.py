"""Use a trained model: predictions for new photos, and a web page to try them on."""

HOST = "127.0.0.1"
PORT = 8765
"""Where the page is, unless the user chooses otherwise: on this machine only."""
