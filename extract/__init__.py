"""Photos to features: the one room that knows image files, folders, VGG16 and the store."""

from typing import Any

__all__ = ["VGG16Features"]


def __getattr__(name: str) -> Any:
    # scikit-learn and what runs VGG16 are imported when they are asked for.
    if name == "VGG16Features":
        from extract.transformer import VGG16Features

        return VGG16Features
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
