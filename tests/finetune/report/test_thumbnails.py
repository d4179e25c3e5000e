import base64
import hashlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from finetune.report.thumbnails import SIDE, Thumbnails
from tests.conftest import picture
from tests.object_store import ObjectStore


def features(root: Path, **content: bytes) -> Any:
    """Write these files and return the parts of their features that are read."""
    for name, data in content.items():
        (root / name).write_bytes(data)
    return SimpleNamespace(
        attributes={"root": str(root)},
        paths=list(content),
        digests=[hashlib.sha256(data).hexdigest() for data in content.values()],
    )


def jpeg(width: int, height: int) -> bytes:
    file = io.BytesIO()
    picture(0, size=(width, height)).save(file, "JPEG")
    return file.getvalue()


def test_a_photo_becomes_a_small_picture_of_its_proportions(tmp_path: Path) -> None:
    address = Thumbnails(features(tmp_path, a=jpeg(800, 400)))(0)
    assert address is not None
    kind, data = address.split(",")
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (SIDE, SIDE // 2))
    assert len(address) < 12_000


def test_a_photo_that_is_gone_changed_or_damaged_has_no_thumbnail(tmp_path: Path) -> None:
    of = features(tmp_path, gone=jpeg(8, 8), changed=jpeg(8, 8), damaged=b"no picture", good=b"")
    (tmp_path / "gone").unlink()
    (tmp_path / "changed").write_bytes(jpeg(9, 9))
    thumbnail = Thumbnails(of)
    assert [thumbnail(row) for row in range(4)] == [None] * 4
    of.paths[0] = "not\0a path"
    assert Thumbnails(of)(0) is None


def test_a_photo_is_read_once(tmp_path: Path) -> None:
    thumbnail = Thumbnails(features(tmp_path, a=jpeg(8, 8)))
    first = thumbnail(0)
    (tmp_path / "a").unlink()
    assert thumbnail(0) == first is not None


@pytest.mark.parametrize("attributes", [{}, {"root": "/no/such/folder"}])
def test_features_whose_root_is_missing_have_no_thumbnails(
    tmp_path: Path, attributes: dict[str, str]
) -> None:
    of = features(tmp_path, a=jpeg(8, 8))
    of.attributes = attributes
    assert Thumbnails(of)(0) is None


def test_photos_in_a_store(s3: ObjectStore, capfd: pytest.CaptureFixture[str]) -> None:
    of = SimpleNamespace(
        attributes={"root": "s3://bucket/pets"},
        paths=["a", "gone", "b", "c"],
        digests=[hashlib.sha256(jpeg(8, 8)).hexdigest()] * 4,
    )
    for name in "abc":
        s3.put(f"pets/{name}", jpeg(8, 8))
    thumbnail = Thumbnails(cast(Any, of))
    assert str(thumbnail(0)).startswith("data:image/webp;base64,")
    assert thumbnail(1) is None
    s3.refused = lambda request: "ExpiredToken"
    s3.asks()
    assert [thumbnail(2), thumbnail(3)] == [None, None]
    assert len(s3.asks()) == 1, "a store out of reach is asked once"
    assert capfd.readouterr().err.startswith("no thumbnails: s3://bucket/pets: no permission")
