"""Image files of all sorts become pictures that are right, or one clear line."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import images
from tandemtune.errors import DataError
from tandemtune.tasks.pictures import opened, plain, thumbnail

LEFT_RED = np.zeros((10, 20, 3), np.uint8)
LEFT_RED[:, :10] = (250, 0, 0)


def written(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_an_image_that_lies_on_its_side_stands_up():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    picture = opened(written(Image.fromarray(LEFT_RED), "PNG", exif=exif))
    assert picture.size == (10, 20)
    pixels = np.asarray(picture)
    assert (pixels[:10] == (250, 0, 0)).all() and (pixels[10:] == 0).all()


def test_the_colours_of_print_are_those_of_the_screen():
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    assert opened(written(cmyk, "TIFF")).getpixel((0, 0)) == (255, 0, 0)
    red, green, blue = opened(written(cmyk, "JPEG", quality=95)).getpixel((0, 0))
    assert red > 240 and green < 15 and blue < 15


def test_an_animation_is_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((0, 200, 0), (200, 0, 0))]
    content = written(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(content)).n_frames == 2
    assert opened(content).getpixel((1, 1)) == (0, 200, 0)


def test_transparent_parts_are_white_and_palettes_are_colours():
    seen = Image.new("RGBA", (4, 4), (9, 9, 9, 0))
    seen.putpixel((0, 0), (10, 20, 30, 255))
    picture = opened(written(seen, "PNG"))
    assert picture.getpixel((0, 0)) == (10, 20, 30) and picture.getpixel((3, 3)) == (255, 255, 255)
    palette = Image.fromarray(LEFT_RED).quantize(4)
    assert opened(written(palette, "PNG")).getpixel((0, 0)) == (250, 0, 0)
    assert opened(written(Image.new("L", (3, 3), 77), "PNG")).getpixel((1, 1)) == (77, 77, 77)


def test_sixteen_bits_of_grey_are_not_cut_off():
    deep = Image.fromarray(np.array([[0, 32768, 65535]], np.uint16))
    assert [opened(written(deep, "PNG")).getpixel((x, 0))[0] for x in range(3)] == [0, 127, 255]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"hello, I am a text", "no image of a known kind"),
        (
            written(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "PNG")[:3000],
            "broken image",
        ),
        (written(Image.fromarray(LEFT_RED), "JPEG")[:120], "image"),
    ],
)
def test_what_is_no_whole_image_is_told_in_one_line(tmp_path, content, said):
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        opened(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert thumbnail(path) is None


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path):
    (tmp_path / "bomb.png").write_bytes(images.bomb())
    with pytest.raises(DataError, match="more than 100 million pixels"):
        opened(tmp_path / "bomb.png")


def test_pictures_in_memory_and_thumbnails(tmp_path):
    grey = Image.new("LA", (300, 200), (100, 255))
    assert plain(grey).mode == "RGB"
    with pytest.raises(DataError, match="got int"):
        plain(3)
    Image.fromarray(LEFT_RED).resize((400, 300)).save(tmp_path / "large.png")
    found = thumbnail(tmp_path / "large.png")
    assert found is not None and found.startswith("data:image/jpeg;base64,") and len(found) < 6000
