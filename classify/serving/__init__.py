"""Using a model: predictions for new photos, and the page to try them on."""
