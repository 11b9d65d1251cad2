"""Image files as RGB pictures: right side up, first frame only, on white where they are transparent; or one clear line.

Everything that opens an image goes through `opened`, so a broken or huge file is told in the same words everywhere.
"""

from __future__ import annotations

import base64
import io
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandemtune.errors import DataError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of files that count as images in a folder."""
MOST_PIXELS = 100_000_000
"""Larger images are refused before they are unpacked: a file of some kilobytes may hold more than fits into memory."""
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Modes with 16 bits of grey."""
THUMBNAIL = 96
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, ArithmeticError),
    *(RuntimeError, TypeError, struct.error),
)
"""What Pillow raises over files that are broken, by their kind."""


def opened(source: Path | bytes, name: str | None = None) -> Image:
    """Read an image.

    Args:
        source: a file, or its bytes.
        name: what messages call it; the path if left out.

    Returns:
        An RGB picture: turned as its EXIF data say, CMYK converted, 16 bits of grey and fractions scaled to 8 bits, transparent parts on white; of an
        animation the first frame.

    Raises:
        DataError: it is empty, broken, of no known kind, or has too many pixels.
        UsageError: Pillow is not installed.
    """
    library = _pillow()
    called = name or (str(source) if isinstance(source, Path) else "image")
    try:
        content = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise DataError(f"{called} cannot be read: {error.strerror or error}") from None
    if not content:
        raise DataError(f"{called} is empty (0 bytes), expected an image: fetch it again, or delete it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are looked at here, and of metadata
            image = library.Image.open(io.BytesIO(content))
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise library.Image.DecompressionBombError
            return _plain(library, image)
    except library.Image.DecompressionBombError:
        raise DataError(
            f"{called} has more than {MOST_PIXELS // 1_000_000} million pixels, which could fill the memory (a decompression bomb?): "
            "make it smaller, or delete it"
        ) from None
    except library.UnidentifiedImageError:
        raise DataError(
            f"{called} is no image of a known kind ({_beginning(content)}): delete it, or convert it"
        ) from None
    except BROKEN as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise DataError(f"{called} is a broken image ({said}): fetch it again, or delete it") from None


def thumbnail(path: Path) -> str | None:
    """A small copy of an image as a data URI for a page; None where the file is gone or cannot be read."""
    try:
        image = opened(path)
    except (DataError, UsageError):
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    written = io.BytesIO()
    image.save(written, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


def as_png(picture: Any) -> bytes:
    """A picture of Pillow's as the bytes of a file."""
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()


def flat(shade: int, size: int = 224) -> Image:
    """A picture of one shade of grey: an image without content."""
    picture: Image = _pillow().Image.new("RGB", (size, size), (shade,) * 3)
    return picture


def plain(image: Any) -> Image:
    """A picture of Pillow's in the form that `opened` gives.

    Raises:
        DataError: it is no picture.
    """
    library = _pillow()
    if not isinstance(image, library.Image.Image):
        raise DataError(f"expected the path of an image or a picture of Pillow's, got {type(image).__name__}")
    return _plain(library, image)


def _plain(library: Any, image: Any) -> Image:
    image.seek(0)
    image.load()
    image = library.ImageOps.exif_transpose(image) or image
    if image.mode in DEEP:
        low, high = image.getextrema()
        scale = 255 / (65535 if high > 255 or low < 0 else 255)
        image = image.convert("I").point(lambda value: value * scale).convert("L")
    if image.mode == "F":
        high = image.getextrema()[1]
        share = 255 / (1 if high <= 1 else 255 if high <= 255 else 65535)
        image = image.point(lambda value: value * share).convert("L")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = library.Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = library.Image.alpha_composite(white, image)
    picture: Image = image.convert("RGB")
    return picture


def _beginning(content: bytes) -> str:
    return f"it begins with {content[:12]!r}"


def _pillow() -> Any:
    try:
        import PIL
        import PIL.Image
        import PIL.ImageOps
    except ImportError:
        raise UsageError("images need Pillow: pip install 'tandemtune[images]'") from None
    return PIL
