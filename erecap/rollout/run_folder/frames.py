"""Frames of an environment as small `data:` URIs."""

from __future__ import annotations

import base64
import io
from typing import Any

SIDE = 320  # pixels; larger frames are scaled down
PNG_BYTES = 16_000  # a frame whose PNG is larger becomes a JPEG: photographs shrink to a fifth, drawings do not
QUALITY = 80  # of a JPEG


def image_uri(pixels: Any) -> str:
    """An image `(height, width, 3)` of bytes as a `data:` URI: PNG, or JPEG where that is smaller and PNG is large."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    data, kind = _saved(image, format="PNG", optimize=True), "png"
    if len(data) > PNG_BYTES:
        small = _saved(image, format="JPEG", quality=QUALITY)
        if len(small) < len(data):
            data, kind = small, "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")


def _saved(image: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()
