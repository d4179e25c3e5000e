from pathlib import Path

import pytest

from extract.store import features_file
from extract.system.console import InputError
from finetune.train.request import BaselineOptions, Request
from tests import stand_in
from tests.conftest import MakePhotos, picture
from tests.synthetic import publish


def check(path: Path, out: Path) -> None:
    with features_file.open(path) as features:
        Request(BaselineOptions(), seed=0, out=out).check(features)


@pytest.mark.parametrize(
    ("split", "per_class"), [("train", (0, 4, 4)), ("val", (6, 0, 4)), ("test", (6, 4, 0))]
)
def test_split_without_photos_is_refused_before_a_network_is_trained(
    split: str, per_class: tuple[int, int, int], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"no photo in {split}, and a network needs"):
        check(publish(tmp_path, per_class=per_class), tmp_path)


def test_photo_that_is_gone_or_changed_is_refused_before_a_network_is_trained(
    photos: MakePhotos, tmp_path: Path
) -> None:
    root, out = photos(), tmp_path / "out"
    done, _ = stand_in.run(root, out)
    assert done.code == 0, done.err
    path = out / "features" / "pets.h5"
    check(path, out)
    picture(99).save(root / "dogs" / "001.png")
    with pytest.raises(InputError, match=r"dogs/001.png: has changed \(1 such photo\); run make"):
        check(path, out)
    (root / "cats" / "002.png").unlink()
    with pytest.raises(InputError, match=r"cats/002.png: cannot be read \(2 such photos\)"):
        check(path, out)
