"""The files of a report: replaced together or not at all."""

from pathlib import Path

from finetune.report.files import write_texts
from tests.failing_writes import every_full_disk

NAMES = ("index.html", "compare.md", "compare.json", "compare.svg")


def test_a_full_disk_at_any_moment_leaves_a_whole_report(tmp_path: Path) -> None:
    def texts(text: str) -> dict[str, str]:
        return dict.fromkeys(NAMES, text)

    write_texts(texts("old"), tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    found = []
    for _ in every_full_disk(lambda: write_texts(texts("new"), tmp_path)):
        moved = {name: (tmp_path / name).read_text() for name in NAMES}
        waiting = tmp_path / ".new"
        moved |= {path.name: path.read_text() for path in waiting.glob("*")}
        (text,) = set(moved.values())
        found.append(text)
    assert found == sorted(found, reverse=True)
    assert set(found) == {"old", "new"}
    assert {path.name for path in tmp_path.iterdir()} == {*NAMES, "mine.txt"}
