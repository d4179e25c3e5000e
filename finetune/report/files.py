"""The files of a report: a page, Markdown, JSON and a picture."""

import json
from pathlib import Path

from extract.system import atomic
from finetune.compare.comparison import Comparison
from finetune.report.cost_chart import cost_chart
from finetune.report.heatmaps import NO_HEATMAPS, Heatmaps
from finetune.report.json_record import json_record
from finetune.report.markdown import markdown
from finetune.report.page import page
from finetune.report.svg import standalone


def write_report(
    comparison: Comparison, folder: Path, heatmaps: Heatmaps = NO_HEATMAPS
) -> list[Path]:
    """Write ``index.html``, ``compare.md``, ``compare.json`` and ``compare.svg`` into `folder`.

    Returns
    -------
    list of Path
        The files, the page first. The same comparison of the same photos gives the same bytes.
    """
    texts = {
        "index.html": page(comparison, heatmaps),
        "compare.md": markdown(comparison),
        "compare.json": json.dumps(json_record(comparison), indent=1) + "\n",
        "compare.svg": standalone(cost_chart(comparison)) + "\n",
    }
    return write_texts(texts, folder)


def write_texts(texts: dict[str, str], folder: Path) -> list[Path]:
    """Write each text to the file of its name in `folder`, all or none; return the files."""
    with atomic.replacing_files(folder) as new:
        for name, text in texts.items():
            (new / name).write_bytes(text.encode())
    return [folder / name for name in texts]
