import io
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from sklearn.datasets import load_sample_images

from extract import images
from extract.console import InputError
from extract.images import Photo, Unreadable, decode, scan
from tests.conftest import CHECKOUT, MakePhotos, picture, png_header


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
    transpose = ImageOps.exif_transpose
    monkeypatch.setattr(
        ImageOps, "exif_transpose", lambda image: sizes.append(image.size) or transpose(image)
    )
    assert decode(saved(plain("red", size=(2400, 2400)), "JPEG"), size=size).shape[0] == size
    assert sizes == [(decoded, decoded)]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_is_decoded_at_a_fraction_and_looks_the_same(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    large = Image.fromarray(small).resize((2400, 1800), Image.Resampling.BICUBIC).convert(mode)
    content = saved(large, "JPEG", quality=90)
    drafted = decode(content).astype(int)
    loads = []
    draft = JpegImageFile.draft
    monkeypatch.setattr(JpegImageFile, "draft", lambda *_: loads.append("full"))
    full = decode(content).astype(int)
    assert loads == ["full"]
    monkeypatch.setattr(JpegImageFile, "draft", draft)
    assert np.abs(drafted - full).mean() < 1
    # Something was really done at another size.
    assert (drafted != full).any()


def test_a_jpeg_that_is_not_large_is_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 900, 3), np.uint8))
    content = saved(photo, "JPEG", quality=90)
    drafted = decode(content)
    monkeypatch.setattr(JpegImageFile, "draft", lambda *_: None)
    np.testing.assert_array_equal(drafted, decode(content))


def test_photo_is_squashed_to_a_square_of_rgb_bytes() -> None:
    pixels = decode(saved(PHOTO, "PNG"), size=32)
    assert pixels.dtype == np.uint8
    expected = np.asarray(PHOTO.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pixels, expected)
    assert decode(saved(PHOTO, "PNG")).shape == (224, 224, 3)


def test_channels_are_red_green_blue() -> None:
    assert only_colour(decode(saved(plain((250, 100, 5)), "PNG"))) == [250, 100, 5]


@pytest.mark.parametrize("index", [0, 1])
def test_real_photo_keeps_its_look(index: int) -> None:
    photo = load_sample_images().images[index]
    pixels = decode(saved(Image.fromarray(photo), "JPEG", quality=95))
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
def test_what_gives_no_picture_gives_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason) as refused:
        decode(content)
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
            assert decode(content.tobytes(), size=8).shape == (8, 8, 3)
        except Unreadable as error:
            reason = str(error)
        assert "\0" not in reason
        reason.encode()


def test_decompression_bomb_that_its_own_pixels_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 // 2 - 1)
    with pytest.raises(Unreadable, match="more pixels than is safe"):
        decode(saved(PHOTO, "PNG"))


def test_big_photo_below_the_bomb_is_read_without_a_warning() -> None:
    program = """
import io
from PIL import Image
from extract.images import decode
Image.MAX_IMAGE_PIXELS = 100
file = io.BytesIO()
Image.new("RGB", (12, 12)).save(file, "PNG")
print(decode(file.getvalue(), size=4).shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "(4, 4, 3)\n"
    assert done.stderr == ""


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA"])
def test_one_pixel_is_a_picture(mode: str) -> None:
    image = plain("white", "RGB", (1, 1)).convert(mode)
    assert only_colour(decode(saved(image, "PNG"))) == [255, 255, 255]


def test_cmyk_jpeg() -> None:
    red, green, blue = only_colour(decode(saved(plain((0, 255, 255, 0), "CMYK"), "JPEG")))
    assert red > 230
    assert green < 30
    assert blue < 30


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    values = np.array([0, 257, 128 * 257, 254 * 257, 65535], np.uint16)
    for value, expected in zip(values, [0, 1, 128, 254, 255], strict=True):
        image = Image.fromarray(np.full((4, 4), value, np.uint16))
        assert only_colour(decode(saved(image, kind))) == [expected] * 3


def test_thirty_two_bit_grey_is_cut_at_sixteen() -> None:
    for value, expected in [(-5, 0), (128 * 257, 128), (1_000_000, 255)]:
        image = Image.fromarray(np.full((4, 4), value, np.int32))
        assert only_colour(decode(saved(image, "TIFF"))) == [expected] * 3


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
    found = only_colour(decode(saved(plain(colour, mode), kind)))
    np.testing.assert_allclose(found, expected, atol=1)


def test_palette_with_a_transparent_colour() -> None:
    image = plain(1, "P")
    image.putpalette([0, 0, 255, 10, 20, 30])
    assert only_colour(decode(saved(image, "PNG"))) == [10, 20, 30]
    assert only_colour(decode(saved(image, "PNG", transparency=1))) == [255, 255, 255]
    assert only_colour(decode(saved(image, "PNG", transparency=0))) == [10, 20, 30]


def test_rgb_with_a_transparent_colour() -> None:
    content = saved(plain((10, 20, 30)), "PNG", transparency=(10, 20, 30))
    assert only_colour(decode(content)) == [255, 255, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_its_first_frame(kind: str) -> None:
    frames = [plain("red"), plain("blue"), plain("lime")]
    options = {} if kind == "TIFF" else {"duration": 50}
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options, **lossless)
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 3
    assert only_colour(decode(content)) == [255, 0, 0]


def test_webp_keeps_every_pixel() -> None:
    pixels = decode(saved(PHOTO, "WEBP", lossless=True), size=24)
    np.testing.assert_array_equal(pixels, decode(saved(PHOTO, "PNG"), size=24))


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
    np.testing.assert_array_equal(decode(content, size=12), decode(upright, size=12))


def test_exif_orientation_of_a_jpeg() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.vstack([np.full((40, 80, 3), v, np.uint8) for v in (20, 220)]))
    pixels = decode(saved(stored, "JPEG", exif=exif))
    assert pixels[:, :100].mean() == pytest.approx(220, abs=3)
    assert pixels[:, 124:].mean() == pytest.approx(20, abs=3)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"]
)
def test_nonsense_in_the_exif_block_loses_no_photo(exif: bytes) -> None:
    content = saved(PHOTO, "JPEG", exif=exif)
    np.testing.assert_array_equal(decode(content), decode(saved(PHOTO, "JPEG")))


# The scan


def all_files(root: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(root))


def test_every_file_is_a_photo_or_skipped_with_a_reason(photos: MakePhotos) -> None:
    root = photos({"dogs": 2, "cats": 2, "empty": 0})
    (root / "cats" / "notes.txt").write_text("may be a photo, decoding tells")
    (root / "cats" / ".DS_Store").write_bytes(b"x")
    (root / "dogs" / "Thumbs.db").write_bytes(b"x")
    (root / "dogs" / "desktop.ini").write_bytes(b"x")
    (root / "README.md").write_text("stray")
    (root / ".hidden").write_text("stray")
    found = scan(root)
    assert found.class_names == ["cats", "dogs", "empty"]
    assert found.photos == [
        Photo("cats/000.png", "cats"),
        Photo("cats/001.png", "cats"),
        Photo("cats/notes.txt", "cats"),
        Photo("dogs/000.png", "dogs"),
        Photo("dogs/001.png", "dogs"),
    ]
    assert found.skipped == [
        (".hidden", "hidden or system file"),
        ("README.md", "not in a class folder"),
        ("cats/.DS_Store", "hidden or system file"),
        ("dogs/Thumbs.db", "hidden or system file"),
        ("dogs/desktop.ini", "hidden or system file"),
    ]
    assert len(found.photos) + len(found.skipped) == all_files(root)


@pytest.mark.parametrize("name", [".git", "__MACOSX", "@eaDir"])
def test_system_folder_is_no_class(name: str, photos: MakePhotos) -> None:
    found = scan(photos({"a": 1, "b": 1, name: 1}))
    assert found.class_names == ["a", "b"]
    assert found.skipped == [(f"{name}/", "hidden or system folder")]


def test_folders_inside_a_class_belong_to_it(photos: MakePhotos) -> None:
    found = scan(photos({"a": 1, "a/more/still": 1, "a/train": 1, "b": 1}))
    assert found.class_names == ["a", "b"]
    assert [(p.path, p.class_name) for p in found.photos] == [
        ("a/000.png", "a"),
        ("a/more/still/000.png", "a"),
        ("a/train/000.png", "a"),
        ("b/000.png", "b"),
    ]


def test_order_is_that_of_the_paths(photos: MakePhotos) -> None:
    found = scan(photos({"b": 12, "a-b": 1, "a": 1, "a/x": 1, "B": 1}))
    paths = [photo.path for photo in found.photos]
    assert paths == sorted(paths)
    assert found.class_names == ["B", "a", "a-b", "b"]


@pytest.mark.parametrize(
    "name", ["with space.png", "Käse ♞.png", "line\nbreak.png", "quote'\".png", "back\\slash.png"]
)
def test_odd_names_are_names(name: str, photos: MakePhotos) -> None:
    root = photos({"a": 1, "b": 1})
    (root / "a" / name).write_bytes(saved(PHOTO, "PNG"))
    assert Photo(f"a/{name}", "a") in scan(root).photos


def test_name_that_is_not_utf8_is_skipped_and_its_name_can_be_stored(photos: MakePhotos) -> None:
    root = photos({"a": 1, "b": 1})
    with open(os.fsencode(root) + b"/a/caf\xe9.png", "wb") as file:
        file.write(saved(PHOTO, "PNG"))
    found = scan(root)
    assert len(found.photos) == 2
    assert found.skipped == [("a/caf\\udce9.png", "file or folder name is not UTF-8; rename it")]


def test_folder_name_that_is_not_utf8(photos: MakePhotos) -> None:
    root = photos({"a": 1, "b": 1})
    folder = os.fsencode(root) + b"/caf\xe9"
    os.mkdir(folder)
    (Path(os.fsdecode(folder)) / "1.png").write_bytes(saved(PHOTO, "PNG"))
    found = scan(root)
    assert found.class_names == ["a", "b", "caf\\udce9"]
    assert [path for path, _ in found.skipped] == ["caf\\udce9/1.png"]
    assert "".join(found.class_names).encode()


def test_stray_folder_name_that_is_not_utf8(photos: MakePhotos) -> None:
    root = photos({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1})
    os.mkdir(os.fsencode(root) + b"/caf\xe9")
    assert scan(root).skipped == [("caf\\udce9/", "folder beside train, val and test")]


def test_links_are_followed_and_loops_are_not(photos: MakePhotos, tmp_path: Path) -> None:
    root = photos({"a": 1, "b": 1})
    elsewhere = photos({"c": 2}, name="elsewhere")
    (root / "linked").symlink_to(elsewhere / "c")
    (root / "a" / "linked.png").symlink_to(elsewhere / "c" / "000.png")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "a" / "knot").symlink_to(root / "a" / "knot")
    (root / "a" / "gone.png").symlink_to(tmp_path / "nowhere")
    assert [(p.path, p.class_name) for p in scan(root).photos] == [
        ("a/000.png", "a"),
        ("a/gone.png", "a"),
        ("a/knot", "a"),
        ("a/linked.png", "a"),
        ("b/000.png", "b"),
        ("linked/000.png", "linked"),
        ("linked/001.png", "linked"),
    ]


def test_knot_beside_the_classes_is_skipped(photos: MakePhotos) -> None:
    root = photos({"a": 1, "b": 1})
    (root / "knot").symlink_to(root / "knot")
    assert scan(root).skipped == [("knot", "not in a class folder")]


def test_pipes_and_sockets_are_skipped_and_not_waited_for(photos: MakePhotos) -> None:
    root = photos({"a": 1, "b": 1})
    os.mkfifo(root / "a" / "pipe.png")
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listening:
        # A socket's path may have 100 characters only.
        listening.bind(f"{short}/s")
        os.rename(f"{short}/s", root / "b" / "socket.png")
        found = scan(root)
    reason = "not a regular file"
    assert found.skipped == [("a/pipe.png", reason), ("b/socket.png", reason)]
    assert len(found.photos) == 2


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "test"), ["test", "train"]),
        (("train", "val"), ["train", "val"]),
        (("train", "val", "test"), ["test", "train", "val"]),
        (("train", "validation", "test"), ["test", "train", "val"]),
        (("Train", "VALIDATION", "Test"), ["test", "train", "val"]),
    ],
)
def test_splits_are_taken_from_the_folders(
    folders: tuple[str, ...], splits: list[str], photos: MakePhotos
) -> None:
    root = photos({f"{folder}/{name}": 2 for folder in folders for name in ("a", "b")})
    found = scan(root)
    assert found.class_names == ["a", "b"]
    assert sorted({photo.split for photo in found.photos}) == splits
    assert len(found.photos) == 4 * len(folders)
    for photo in found.photos:
        folder, class_name, _ = photo.path.split("/")
        assert photo.class_name == class_name
        assert photo.split == images.SPLIT_FOLDERS[folder.lower()]


def test_what_lies_beside_the_splits_is_skipped(photos: MakePhotos) -> None:
    root = photos({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1, "extra": 3})
    (root / "train" / "list.csv").write_text("x")
    (root / "labels.csv").write_text("x")
    found = scan(root)
    assert len(found.photos) == 4
    assert found.skipped == [
        ("extra/", "folder beside train, val and test"),
        ("labels.csv", "not in a class folder"),
        ("train/list.csv", "not in a class folder"),
    ]


@pytest.mark.parametrize("name", ["train", "Test", "val"])
def test_class_called_like_a_split_stays_a_class(name: str, photos: MakePhotos) -> None:
    found = scan(photos({name: 1, "bus": 1}))
    assert found.class_names == sorted([name, "bus"])
    assert {photo.split for photo in found.photos} == {""}


def test_test_and_val_without_train_are_classes(photos: MakePhotos) -> None:
    found = scan(photos({"test": 1, "val": 1}))
    assert found.class_names == ["test", "val"]


def test_left_out_class(photos: MakePhotos) -> None:
    root = photos({"a": 1, "b": 1, "BACKGROUND_Google": 2})
    found = scan(root, exclude=("BACKGROUND_Google",))
    assert found.class_names == ["a", "b"]
    assert found.skipped == [("BACKGROUND_Google/", "class left out (--background keeps it)")]
    assert len(scan(root).class_names) == 3


@pytest.mark.parametrize("classes", [{"a": 3}, {}, {"train/a": 2, "test/a": 2}])
def test_fewer_than_two_classes_is_an_input_error(classes: dict[str, int], tmp_path: Path) -> None:
    root = tmp_path / "few"
    root.mkdir()
    for name, n in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(n):
            (root / name / f"{i}.png").write_bytes(saved(PHOTO, "PNG"))
    with pytest.raises(InputError, match="two are needed"):
        scan(root)


@pytest.mark.parametrize(("size", "expected"), [((400, 100), (64, 16)), ((30, 40), (30, 40))])
def test_thumbnail_keeps_proportions_and_is_never_larger(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    data = images.thumbnail(saved(plain((200, 30, 60), size=size), "PNG"), size=64)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("WEBP", expected)
        assert np.abs(np.asarray(image, int) - (200, 30, 60)).max() < 8


def test_thumbnail_is_upright_over_white_and_without_what_the_file_tells_beside_it() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    turned[0x010F] = "a camera"
    data = images.thumbnail(saved(plain("red", size=(60, 20)), "JPEG", exif=turned), size=64)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (20, 60)
        assert not dict(image.getexif())
    clear = images.thumbnail(saved(plain((0, 0, 0, 0), "RGBA"), "PNG"), size=64)
    assert decode(clear, size=8).min() > 250


def test_thumbnail_of_no_picture_gives_the_reason() -> None:
    with pytest.raises(Unreadable, match="not an image"):
        images.thumbnail(b"text", size=64)
