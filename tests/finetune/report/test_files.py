from pathlib import Path

from finetune.report.files import write_report
from tests.synthetic_results import five


def test_same_comparison_same_bytes(tmp_path: Path) -> None:
    found = five(tmp_path / "given", [f"class {i}" for i in range(6)], test=60)
    first = [path.read_bytes() for path in write_report(found, tmp_path / "one")]
    again = [path.read_bytes() for path in write_report(found, tmp_path / "two")]
    assert first == again
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["compare.json", "compare.md", "compare.svg", "index.html"]
