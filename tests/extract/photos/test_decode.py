import base64
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from sklearn.datasets import load_sample_images

from extract.photos import containers, decode, depth
from extract.photos.decode import Unreadable, decode_photo
from extract.system import memory
from tests.conftest import CHECKOUT, picture, png_header


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain(colour: object, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new(mode, size, colour)


def only_colour(pixels: NDArray[np.uint8]) -> list[int]:
    """Return the one colour that all pixels have."""
    colours = np.unique(pixels.reshape(-1, 3), axis=0)
    assert len(colours) == 1, colours
    return colours[0].tolist()


PHOTO = picture(1, size=(64, 48))


@pytest.mark.parametrize(("size", "decoded"), [(96, 300), (224, 1200), (320, 1200), (512, 2400)])
def test_a_large_jpeg_is_decoded_at_no_less_than_three_times_the_size(
    size: int, decoded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    load = JpegImageFile.load
    monkeypatch.setattr(
        JpegImageFile, "load", lambda image: sizes.append(image.size) or load(image)
    )
    assert decode_photo(saved(plain("red", size=(2400, 2400)), "JPEG"), size=size).shape[0] == size
    assert sizes[0] == (decoded, decoded)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_is_decoded_at_a_fraction_and_looks_the_same(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    large = Image.fromarray(small).resize((2400, 1800), Image.Resampling.BICUBIC).convert(mode)
    content = saved(large, "JPEG", quality=90)
    drafted = decode_photo(content, size=224).astype(int)
    loads = []
    draft = JpegImageFile.draft
    monkeypatch.setattr(JpegImageFile, "draft", lambda *_: loads.append("full"))
    full = decode_photo(content, size=224).astype(int)
    assert loads == ["full"]
    monkeypatch.setattr(JpegImageFile, "draft", draft)
    assert np.abs(drafted - full).mean() < 1
    # Something was really done at another size.
    assert (drafted != full).any()


def test_a_jpeg_that_is_not_large_is_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 900, 3), np.uint8))
    content = saved(photo, "JPEG", quality=90)
    drafted = decode_photo(content, size=224)
    monkeypatch.setattr(JpegImageFile, "draft", lambda *_: None)
    np.testing.assert_array_equal(drafted, decode_photo(content, size=224))


def test_photo_is_squashed_to_a_square_of_rgb_bytes() -> None:
    pixels = decode_photo(saved(PHOTO, "PNG"), size=32)
    assert pixels.dtype == np.uint8
    expected = np.asarray(PHOTO.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pixels, expected)
    assert decode_photo(saved(PHOTO, "PNG"), size=224).shape == (224, 224, 3)


def test_channels_are_red_green_blue() -> None:
    assert only_colour(decode_photo(saved(plain((250, 100, 5)), "PNG"), size=224)) == [250, 100, 5]


@pytest.mark.parametrize("index", [0, 1])
def test_real_photo_keeps_its_look(index: int) -> None:
    photo = load_sample_images().images[index]
    pixels = decode_photo(saved(Image.fromarray(photo), "JPEG", quality=95), size=224)
    left, right = np.hsplit(pixels, 2)
    for half, original in zip((left, right), np.hsplit(photo, 2), strict=True):
        np.testing.assert_allclose(half.mean((0, 1)), original.mean((0, 1)), atol=1.5)


def jpeg_with_lost_end() -> bytes:
    return saved(PHOTO, "JPEG")[:-200]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"this is a text, whatever its name says", "not an image file"),
        (b"\0" * 4096, "not an image file"),
        (jpeg_with_lost_end(), "damaged image"),
        (saved(PHOTO, "JPEG")[:10], "damaged image"),
        (saved(PHOTO, "PNG")[:-3000], "damaged image"),
        (saved(PHOTO, "WEBP")[:-300], "damaged image"),
        (png_header(20, 20), "damaged image"),
        (png_header(100_000, 100_000), "more pixels than is safe"),
        (saved(plain(0.5, "F"), "TIFF"), "floating-point"),
    ],
    ids=[
        "empty",
        "text",
        "zeros",
        "truncated jpeg",
        "jpeg of 10 bytes",
        "truncated png",
        "truncated webp",
        "png with too few pixels",
        "decompression bomb",
        "float tiff",
    ],
)
def test_an_unreadable_file_gives_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason) as refused:
        decode_photo(content, size=224)
    assert "\n" not in str(refused.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_damage_anywhere_gives_pixels_or_a_reason_that_can_be_stored(kind: str) -> None:
    whole = saved(PHOTO, kind)
    random = np.random.default_rng(0)
    for _ in range(60):
        content = np.frombuffer(whole, np.uint8).copy()
        where = random.integers(0, min(len(content), 400), 6)
        content[where] = random.integers(0, 256, 6)
        reason = ""
        try:
            assert decode_photo(content.tobytes(), size=8).shape == (8, 8, 3)
        except Unreadable as error:
            reason = str(error)
        assert "\0" not in reason
        reason.encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n", "a drawing (PostScript)"),
        (b"\xd7\xcd\xc6\x9a" + bytes(60), "a drawing (Windows metafile)"),
        (b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(60), "a drawing (Windows metafile)"),
        (b"GRIB\0\0\0\1" + bytes(60), "weather data (GRIB)"),
        (b"BUFR" + bytes(60), "weather data (BUFR)"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "numbers (HDF5)"),
        (b"\0\0\1\xb3" + bytes(60), "a film (MPEG)"),
        (b"%PDF-1.7\n", "a document (PDF)"),
    ],
)
def test_what_is_no_photo_is_called_by_its_name(
    content: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **_: started.append(args))
    with pytest.raises(Unreadable) as refused:
        decode_photo(content, size=8)
    assert str(refused.value) == f"not a photo but {reason}"
    assert not started


def test_a_file_of_a_kind_that_pillow_lacks_is_not_called_damaged() -> None:
    depth_of_two = bytearray(saved(plain("red"), "BMP"))
    depth_of_two[28] = 2
    with pytest.raises(Unreadable, match="of a kind that Pillow cannot decode: Unsupported BMP"):
        decode_photo(bytes(depth_of_two), size=8)
    with pytest.raises(Unreadable, match="begins like GIF, but Pillow cannot read it"):
        decode_photo(b"GIF89a\0\0\0\0\0\0\0", size=8)
    twelve = bytearray(saved(PHOTO, "JPEG"))
    twelve[twelve.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(Unreadable, match="cannot decode: cannot handle 12-bit layers"):
        decode_photo(bytes(twelve), size=8)


def test_formats_that_people_have_are_decoded() -> None:
    for kind in ["AVIF", "DDS", "ICO", "JPEG2000", "PCX", "PPM", "SGI", "TGA"]:
        assert decode_photo(saved(PHOTO, kind), size=8).shape == (8, 8, 3), kind
    assert {"FITS", "MPO", "PSD", "ICNS"} - set(decode.formats()) == {"MPO"}


@pytest.fixture
def fresh_formats() -> Iterator[None]:
    decode.formats.cache_clear()
    yield
    decode.formats.cache_clear()


def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    monkeypatch.setattr(Image, "OPEN", {k: v for k, v in Image.OPEN.items() if k != "HEIF"})


@pytest.mark.usefixtures("fresh_formats")
def test_without_pi_heif_the_reason_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without_heif(monkeypatch)
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    for brands in [b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic"]:
        with pytest.raises(Unreadable) as refused:
            decode_photo(b"\0\0\0\x18ftyp" + brands + bytes(60), size=8)
        reason = "HEIC photo; pip install pi-heif reads it (the extra heic)"
        assert str(refused.value) == reason


@pytest.mark.usefixtures("fresh_formats")
def test_pi_heif_is_registered_where_photos_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stored(ImageFile.ImageFile):
        """Takes the place of pi-heif's opener, which turns pictures itself."""

        format = "HEIF"

        def _open(self) -> None:
            self._mode, self._size = "RGB", (6, 4)
            self.tile = [ImageFile._Tile("raw", (0, 0, 6, 4), 12, "RGB")]
            self.info["exif"] = turned.tobytes()

    turned = Image.Exif()
    turned[0x0112] = 6
    without_heif(monkeypatch)
    opener = SimpleNamespace(
        register_heif_opener=lambda: Image.register_open(
            "HEIF", Stored, lambda start: start[4:12] == b"ftypheic"
        )
    )
    monkeypatch.setitem(sys.modules, "pi_heif", opener)
    content = b"\0\0\0\x0cftypheic" + UPRIGHT.tobytes()
    expected = decode_photo(saved(Image.fromarray(UPRIGHT), "PNG"), size=12)
    np.testing.assert_array_equal(decode_photo(content, size=12), expected)


HEIC = """
eNpjYGCQSSupLMhIzUxmAILczDRDEDs3MzGNgYHxRG5qSSIDBChmpOQUQdkMBZnJJQxowCQzJx9siIsDAxMDI4jF+AZCA8FZ
oBgQMO2Ei6gAsUVmZl4amAeSFQVyUsHKgGoyypINGZAEGUFKXCsywcr5CjJLchmgKhnZMwuKCoDsZ5kFyflAugyo15mRGSQ0
AaxI7gPDn78/fjAw8DMnAHVIODDyMP7/D1LADFLBDEJyu5gcEoGSWk6MjGgyCxQaWae9erJs5w6ODAMFoBAziGBQTAIqZ3Nh
PFh8oBNoiXByfk5RXnJOBVCUl4GtASgkkllckAr1rgMUayTnJIJcZgNxPIMGiP7///8fUCAA6RfQwBAoyKzIBGlk5uDgAFKc
mUX5JUD3MEhmFuTCIoWRgZGtkYmZtaUNyJHKLEpNg0rwJacUJ4OjAWTHz9yURFB8ndRgXM+245NGklv9Wf3//9+l1/K/ncG8
PapR5PzP3svL75s+qUj/LfN7qm6Qv5/0Pc2K6Cnxv2Lsbp/fw3LjtdubY+It6YtbD15uqD3wpCD6qcPV7WvvOq56yHuU+8wC
mc+eR2Y6i2W8/59m8YV5w+asaQGz2M/8l/zyc1/05v+SG/b8yp0tkuv9esn67HlRL5fvtl6z3W3/8uUebEudNt41Ld7bnrju
dI3eU7a1v34u/8L19fOSvh0Z+rdvmdR+EvZM2X/rnPf0OWKneUuEHwgvc+52f/cA6Bk2SGLw9WXQAvI4GBgZhUDxBYoTSBgA
AKQeyVA=
"""
"""60 x 40 pixels, red above blue, to be turned clockwise. As in a phone's file, both the container
and EXIF say so. Compressed with zlib."""


def test_heic_is_turned_once() -> None:
    pytest.importorskip("pi_heif", reason="pi-heif is not installed (make install)")
    content = zlib.decompress(base64.b64decode(HEIC))
    upright = decode.upright(content, size=64)
    assert upright.size == (40, 60)
    left, right = np.hsplit(np.asarray(upright, int), 2)
    np.testing.assert_allclose(left.mean((0, 1)), (20, 20, 250), atol=9)
    np.testing.assert_allclose(right.mean((0, 1)), (250, 20, 20), atol=9)
    with pytest.raises(Unreadable, match="damaged"):
        decode_photo(content[:500], size=64)


def test_a_heic_file_that_would_end_the_process_is_refused() -> None:
    content = zlib.decompress(base64.b64decode(HEIC)).replace(b"Exif\0\0\0", b"E\xacif\0\0\0", 1)
    with pytest.raises(Unreadable, match="damaged image: the names of its parts are no text"):
        decode_photo(content, size=64)


def test_libtiff_says_nothing_of_damage_by_itself(capfd: pytest.CaptureFixture[str]) -> None:
    file = io.BytesIO()
    picture(0).save(file, "TIFF", compression="tiff_deflate")
    content = bytearray(file.getvalue())
    content[20:60] = bytes(40)
    with pytest.raises(Unreadable):
        decode_photo(bytes(content), size=32)
    assert capfd.readouterr() == ("", "")


def test_decompression_bomb_that_its_own_pixels_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 // 2 - 1)
    with pytest.raises(Unreadable, match="more pixels than is safe"):
        decode_photo(saved(PHOTO, "PNG"), size=224)


LARGE = saved(Image.fromarray(np.asarray(PHOTO).repeat(50, 0).repeat(50, 1)), "JPEG")
"""3200 x 2400 pixels."""


@pytest.mark.parametrize("limit", [300 * 400 // 2, 300 * 400 // 2 - 1])
def test_a_jpeg_is_too_large_by_the_pixels_that_are_left_to_decode(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decode_photo(LARGE, size=96)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    if limit * 2 >= 300 * 400:
        np.testing.assert_array_equal(decode_photo(LARGE, size=96), whole)
    else:
        with pytest.raises(Unreadable, match="more pixels than is safe"):
            decode_photo(LARGE, size=96)


def test_a_progressive_jpeg_is_too_large_by_what_all_its_pixels_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Image.open(io.BytesIO(LARGE)) as image:
        content = saved(image, "JPEG", progressive=True, subsampling="4:2:0")
    needed = 2 * 3200 * 2400 * 3 // 2 + len(content) + 400 * 300 * decode.PIXEL
    monkeypatch.setattr(memory, "MOST", needed)
    assert decode_photo(content, size=96).shape == (96, 96, 3)
    monkeypatch.setattr(memory, "MOST", needed - 1)
    assert decode_photo(LARGE, size=96).shape == (96, 96, 3)
    with pytest.raises(Unreadable, match="would take up to 24 MB of memory, and at most 24 MB are"):
        decode_photo(content, size=96)


def test_the_limit_holds_for_other_formats_while_a_thread_decodes_a_large_jpeg(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300 * 400 // 2)
    bomb = png_header(1000, 1000)

    def outcome(content: bytes) -> str:
        try:
            return str(decode_photo(content, size=96).shape)
        except Unreadable as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(outcome, [LARGE, bomb] * 20))
    assert found == ["(96, 96, 3)", "more pixels than is safe to decode"] * 20


def test_big_photo_below_the_bomb_is_read_without_a_warning() -> None:
    program = """
import io
from PIL import Image, ImageFile
from extract.photos.decode import decode_photo
Image.MAX_IMAGE_PIXELS = 100
file = io.BytesIO()
Image.new("RGB", (12, 12)).save(file, "PNG")
print(decode_photo(file.getvalue(), size=4).shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "(4, 4, 3)\n"
    assert done.stderr == ""


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA"])
def test_one_pixel_is_a_picture(mode: str) -> None:
    image = plain("white", "RGB", (1, 1)).convert(mode)
    assert only_colour(decode_photo(saved(image, "PNG"), size=224)) == [255, 255, 255]


def test_cmyk_jpeg() -> None:
    red, green, blue = only_colour(
        decode_photo(saved(plain((0, 255, 255, 0), "CMYK"), "JPEG"), size=224)
    )
    assert red > 230
    assert green < 30
    assert blue < 30


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 77, [77, 77, 77]),
        ("1", 1, [255, 255, 255]),
        ("LA", (40, 255), [40, 40, 40]),
        ("LA", (40, 0), [255, 255, 255]),
        ("RGBA", (200, 30, 10, 255), [200, 30, 10]),
        ("RGBA", (200, 30, 10, 0), [255, 255, 255]),
        ("RGBA", (0, 0, 0, 51), [204, 204, 204]),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_modes_become_rgb_with_transparency_over_white(
    mode: str, colour: object, expected: list[int], kind: str
) -> None:
    found = only_colour(decode_photo(saved(plain(colour, mode), kind), size=224))
    np.testing.assert_allclose(found, expected, atol=1)


def test_palette_with_a_transparent_colour() -> None:
    image = plain(1, "P")
    image.putpalette([0, 0, 255, 10, 20, 30])
    assert only_colour(decode_photo(saved(image, "PNG"), size=224)) == [10, 20, 30]
    assert only_colour(decode_photo(saved(image, "PNG", transparency=1), size=224)) == [
        255,
        255,
        255,
    ]
    assert only_colour(decode_photo(saved(image, "PNG", transparency=0), size=224)) == [10, 20, 30]


def test_rgb_with_a_transparent_colour() -> None:
    content = saved(plain((10, 20, 30)), "PNG", transparency=(10, 20, 30))
    assert only_colour(decode_photo(content, size=224)) == [255, 255, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_its_first_frame(kind: str) -> None:
    frames = [plain("red"), plain("blue"), plain("lime")]
    options = {} if kind == "TIFF" else {"duration": 50}
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options, **lossless)
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 3
    assert only_colour(decode_photo(content, size=224)) == [255, 0, 0]


def test_webp_keeps_every_pixel() -> None:
    pixels = decode_photo(saved(PHOTO, "WEBP", lossless=True), size=24)
    np.testing.assert_array_equal(pixels, decode_photo(saved(PHOTO, "PNG"), size=24))


UPRIGHT = np.asarray(picture(2, size=(6, 4)))
# What lies in the file, for each EXIF orientation, of the photo that is meant.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT, 1),
    7: UPRIGHT.transpose(1, 0, 2)[::-1, ::-1],
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    content = saved(stored, kind, exif=exif.tobytes() if kind == "WEBP" else exif, **options)
    upright = saved(Image.fromarray(UPRIGHT), "PNG")
    np.testing.assert_array_equal(decode_photo(content, size=12), decode_photo(upright, size=12))


def test_exif_orientation_of_a_jpeg() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.vstack([np.full((40, 80, 3), v, np.uint8) for v in (20, 220)]))
    pixels = decode_photo(saved(stored, "JPEG", exif=exif), size=224)
    assert pixels[:, :100].mean() == pytest.approx(220, abs=3)
    assert pixels[:, 124:].mean() == pytest.approx(20, abs=3)


@pytest.mark.parametrize(("size", "expected"), [((400, 100), (64, 16)), ((30, 40), (30, 40))])
def test_thumbnail_keeps_proportions_and_is_never_larger(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    data = decode.thumbnail(saved(plain((200, 30, 60), size=size), "PNG"), size=64)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("WEBP", expected)
        assert np.abs(np.asarray(image, int) - (200, 30, 60)).max() < 8


def test_thumbnail_is_upright_over_white_and_without_what_the_file_tells_beside_it() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    turned[0x010F] = "a camera"
    data = decode.thumbnail(saved(plain("red", size=(60, 20)), "JPEG", exif=turned), size=64)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (20, 60)
        assert not dict(image.getexif())
    clear = decode.thumbnail(saved(plain((0, 0, 0, 0), "RGBA"), "PNG"), size=64)
    assert decode_photo(clear, size=8).min() > 250


def test_thumbnail_of_no_picture_gives_the_reason() -> None:
    with pytest.raises(Unreadable, match="not an image"):
        decode.thumbnail(b"text", size=64)


def png16(values: NDArray[np.uint16], colour_type: int) -> bytes:
    """Return a PNG file with 16 bits per value."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return containers.PNG + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in parts
    )


TWELVE_BITS = np.random.default_rng(4).integers(0, 4096, (9, 11, 4)).astype(np.uint16)
DEEP = {
    "RGB of 12 bits": png16(TWELVE_BITS[..., :3], 2),
    "RGBA of 12 bits": png16(TWELVE_BITS * [[[1, 1, 1, 16]]], 6),
    "grey with alpha": png16(TWELVE_BITS[..., :2], 4),
    "grey of 12 bits": png16(TWELVE_BITS[..., :1], 0),
    "transparent": saved(Image.fromarray((TWELVE_BITS >> 4).astype(np.uint8), "RGBA"), "PNG"),
    "32 bits": saved(Image.fromarray(TWELVE_BITS[..., 0].astype(np.int32)), "TIFF"),
}


@pytest.mark.parametrize("name", DEEP)
def test_an_image_that_is_converted_in_bands_has_the_same_pixels(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decode_photo(DEEP[name], size=24)
    monkeypatch.setattr(depth, "BAND", 25)
    np.testing.assert_array_equal(decode_photo(DEEP[name], size=24), expected)


def with_scans(n: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated, so that it has n of them."""
    content = saved(PHOTO, "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + (n - content.count(b"\xff\xda")) * last + content[-2:]


def test_a_jpeg_of_too_many_scans_is_refused() -> None:
    expected = decode_photo(saved(PHOTO, "JPEG", progressive=True), size=8)
    found = decode_photo(with_scans(decode.MOST_SCANS), size=8)
    np.testing.assert_allclose(found.astype(int), expected, atol=3)
    with pytest.raises(Unreadable, match="JPEG with more than 100 scans, which take too long"):
        decode_photo(with_scans(decode.MOST_SCANS + 1), size=8)


def test_what_looks_like_scans_beside_the_picture_is_not_counted() -> None:
    content = saved(PHOTO, "JPEG", progressive=True)
    noise = 200 * b"\xff\xda\0\2"
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(noise)) + noise
    for odd in (content[:2] + comment + content[2:], content + noise):
        np.testing.assert_array_equal(decode_photo(odd, size=8), decode_photo(content, size=8))


@pytest.mark.parametrize("side", [4096, 4097])
def test_an_icon_that_holds_a_large_image_is_refused(side: int) -> None:
    inner = png_header(side, side)
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    with pytest.raises(Unreadable) as refused:
        decode_photo(struct.pack("<HHH", 0, 1, 1) + entry + inner, size=8)
    too_large = str(refused.value) == "icon with more pixels than is safe to decode"
    assert too_large == (side > 4096)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_pixels_of_webp_are_known_before_it_is_opened(lossless: bool, mode: str) -> None:
    content = saved(plain("red", "RGB", (300, 70)).convert(mode), "WEBP", lossless=lossless)
    assert containers.webp_pixels(content) == 300 * 70


def test_a_tile_that_is_larger_than_its_picture_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(saved(plain("red"), "TIFF", compression="tiff_adobe_deflate"))
    (at,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, at)
    for start in range(at + 2, at + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from("<H", content, start)
        if tag in (278, 284):
            # Rows per strip and the planar configuration become width and length of a tile.
            struct.pack_into("<HHII", content, start, {278: 322, 284: 323}[tag], 4, 1, 40_000)
    with pytest.raises(Unreadable, match="would take up to 4,800 MB of memory"):
        decode_photo(bytes(content), size=8)


def test_libtiff_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(saved(PHOTO, "TIFF", compression="tiff_lzw"))
    content[100:400] = bytes(300)
    with pytest.raises(Unreadable):
        decode_photo(bytes(content), size=8)
    assert capfd.readouterr() == ("", "")


def test_a_format_that_is_decoded_slowly_has_a_limit_of_its_own() -> None:
    text = b"P3 %d 5000 255\n"
    with pytest.raises(Unreadable, match="PPM image with more than 25,000,000 pixels, which takes"):
        decode_photo(text % 5001, size=8)
    with pytest.raises(Unreadable, match="damaged"):
        decode_photo(text % 5000, size=8)


def test_an_image_that_asks_for_memory_without_end_is_damaged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(image: JpegImageFile) -> None:
        raise MemoryError

    monkeypatch.setattr(JpegImageFile, "load", load)
    with pytest.raises(Unreadable, match="damaged image: it asks for more memory than its pixels"):
        decode_photo(saved(PHOTO, "JPEG"), size=8)
