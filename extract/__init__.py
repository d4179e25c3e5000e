"""Photos to features: image files, VGG16 and the store."""

from typing import Any

__all__ = ["VGG16Features"]


def __getattr__(name: str) -> Any:
    # Importing scikit-learn takes seconds, so it waits until the class is used.
    if name == "VGG16Features":
        from extract.transformer import VGG16Features

        return VGG16Features
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
