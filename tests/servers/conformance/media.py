"""The smallest image and sound there are, and resources as content."""

from typing import Final

import mcp_types as types

IMAGE: Final = types.ImageContent(
    type="image",
    mime_type="image/png",
    data=(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5E"
        "rkJggg=="
    ),
)
SOUND: Final = types.AudioContent(
    type="audio",
    mime_type="audio/wav",
    data="UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=",
)


def text_resource(uri: str, mime_type: str, text: str) -> types.EmbeddedResource:
    """Wrap a text as a resource inside a result."""
    resource = types.TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    return types.EmbeddedResource(type="resource", resource=resource)
