"""Where in a photo a model found its class: what changes when the features of a place are gone."""
