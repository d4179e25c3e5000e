import io
import re
from pathlib import Path

from rich.console import Console

from finetune.report.terminal import comparison_table
from tests.synthetic_results import comparison, fake_features, five


def test_terminal_table(tmp_path: Path) -> None:
    found = five(tmp_path, [f"class {i}" for i in range(6)], test=60)
    text = io.StringIO()
    Console(file=text, width=80).print(comparison_table(found))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    model = found.models[0]
    metrics, (low, high) = model.result.metrics, model.accuracy_interval
    assert "train" in text.getvalue()
    on_train = "—" if model.result.stage == "head" else f"{model.accuracy:.1%}"
    (line,) = [line for line in lines if line.startswith(model.name)]
    assert re.split(" {2,}", line) == [
        model.name,
        f"{metrics['accuracy']:.1%}",
        f"{low:.1%} to {high:.1%}",
        on_train,
        f"{metrics['mean_class_recall']:.1%}",
        f"{metrics['log_loss']:.3f}",
        "16 min 0 s" if model.result.stage == "head" else "15 min 0 s",
    ]


def test_terminal_table_shows_markup_as_text(tmp_path: Path) -> None:
    text = io.StringIO()
    found = comparison(tmp_path, fake_features(["a", "b"]), **{"[red]svm\x1b[0m": [0]})
    Console(file=text, width=100).print(comparison_table(found))
    assert "[red]svm\\x1b[0m" in text.getvalue()
