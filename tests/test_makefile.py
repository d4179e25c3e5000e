"""Make gives every command what was typed, whatever is in it, and removes results alone."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

ODD = """it's "a" b$HOME$(OUT)`id`;#*\\n
c\\"""
KEPT = ["--activations", "block4_pool"]
PAIRS = ["--pairs=auto"]
STUB = f"""#!{sys.executable} -S
import json, sys
print(json.dumps(sys.argv[1:]))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile, whose Python prints the words that it is given."""
    root = tmp_path / "checkout"
    (root / "requirements").mkdir(parents=True)
    for name in ("pyproject.toml", "requirements/cpu.txt", "requirements/gpu.txt"):
        (root / name).touch()
        os.utime(root / name, (1, 1))
    shutil.copy(CHECKOUT / "Makefile", root)
    python = root / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(STUB)
    python.chmod(0o755)
    for name in ("cpu", "gpu"):
        (root / f".venv/installed-{name}").touch()
    return root


def make(checkout: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # These tests may run in a make of their own, whose variables must not reach this one.
    inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return subprocess.run(
        ["make", *words],
        cwd=checkout,
        env=inherited | {"HOME": str(checkout)} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("odd", [ODD, "-x", ""])
def test_commands_are_given_what_was_typed(odd: str, checkout: Path) -> None:
    done = make(checkout, "all", f"DATA={odd}", f"OUT={odd}", "SIZES=224 320")
    assert done.returncode == 0, done.stderr
    where, data = [f"--out={odd}", "--seed=0"], ["--", odd]
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        [
            "-m",
            "extract",
            "features",
            *where,
            *KEPT,
            "--sizes",
            "224",
            "320",
            "--pairs=auto",
            *data,
        ],
        ["-m", "classify", "train", *where, *data],
        ["-m", "finetune", "compare", f"--out={odd}", "--so-far", *data],
        ["-m", "finetune", "train", *where, *data],
        ["-m", "finetune", "compare", f"--out={odd}", *data],
    ]
    done = make(checkout, "finetune", "compare", f"DATA={odd}", f"OUT={odd}")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        ["-m", "extract", "features", *where, *KEPT, "--sizes", "224", *PAIRS, *data],
        ["-m", "finetune", "train", *where, *data],
        ["-m", "finetune", "compare", f"--out={odd}", *data],
    ]
    done = make(checkout, "finetune", f"DATA={odd}", "MODELS=finetuned finetuned-all")
    assert done.returncode == 0, done.stderr
    models = ["--models", "finetuned", "finetuned-all"]
    trained = ["-m", "finetune", "train", "--out=.", "--seed=0", *models, *data]
    assert json.loads(done.stdout.splitlines()[-1]) == trained
    done = make(checkout, "label", f"DATA={odd}", f"POOL={odd}")
    assert done.returncode == 0, done.stderr
    pool = [f"--pool={odd}"] if odd else []
    label = ["-m", "classify", "label", "--out=.", *pool, *data]
    assert json.loads(done.stdout.splitlines()[-1]) == label
    typed = {"DATA": odd, "MODEL": odd, "IMAGES": odd, "TO": odd, "HOW": odd}
    done = make(checkout, "predict", "sort", "serve", **typed)
    assert done.returncode == 0, done.stderr
    how = [f"--how={odd}"] if odd else []
    where = [f"--data={odd}", "--out=."]
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        ["-m", "classify", "predict", *where, "--", odd, odd],
        ["-m", "classify", "sort", *where, f"--to={odd}", *how, "--", odd, odd],
        ["-m", "classify", "serve", *where, "--", odd],
    ]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ([], KEPT),
        (["heads", "finetune"], KEPT),
        (["features", "finetune"], KEPT),
        (["features"], []),
        (["heads", "compare"], []),
        (["all", "ON=ray"], ["--on=ray"]),
    ],
)
def test_activations_are_kept_where_a_network_will_be_fine_tuned_on_this_machine(
    words: list[str], kept: list[str], checkout: Path
) -> None:
    first = json.loads(make(checkout, *words).stdout.splitlines()[0])
    what = ["--sizes", "224", *PAIRS, "--", "chess"]
    assert first[3:] == ["--out=.", "--seed=0", *kept, *what]


@pytest.mark.parametrize("out", [ODD, "a b", "-x", "~/o", "."])
def test_clean_and_distclean_remove_results_alone(out: str, checkout: Path) -> None:
    folder = checkout / out.replace("~/", "")
    for name in ("runs", "reports", "features", "photos"):
        (folder / name).mkdir(parents=True)
    others = [checkout / name for name in ("a/runs", "b/runs", "~", "n/runs")]
    for other in others:
        other.mkdir(parents=True, exist_ok=True)
    assert make(checkout, "clean", f"OUT={out}").returncode == 0
    left = {path.name for path in folder.iterdir()}
    assert {"runs", "reports", "features", "photos"} & left == {"features", "photos"}
    assert make(checkout, "distclean", f"OUT={out}").returncode == 0
    assert {"features", "photos"} & {path.name for path in folder.iterdir()} == {"photos"}
    assert all(other.is_dir() for other in others)


@pytest.mark.parametrize("out", ["", "file:///x", "s3://bucket/x"])
def test_clean_refuses_an_out_that_is_no_path(out: str, checkout: Path) -> None:
    (checkout / "runs").mkdir()
    done = make(checkout, "distclean", f"OUT={out}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert (checkout / "runs").is_dir()
    assert (checkout / ".venv").is_dir()


PYTHON = f"""#!{sys.executable} -S
import sys
if sys.argv[1] == "-V":
    print("Python {{0}}")
elif sys.argv[1] == "-c":
    sys.version_info = tuple(map(int, "{{0}}".split(".")))
    exec(sys.argv[2])
else:
    print(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("version", "fits"),
    [("3.10.13", False), ("3.11.3", False), ("3.11.4", True), ("3.13.9", True), ("3.14.0", False)],
)
def test_an_unsuitable_python_is_told_what_to_install(
    version: str, fits: bool, checkout: Path
) -> None:
    for name in ("cpu", "gpu"):
        (checkout / f".venv/installed-{name}").unlink()
    python = checkout / "python3"
    python.write_text(PYTHON.format(version), "utf-8")
    python.chmod(0o755)
    done = make(checkout, "compare", PATH=f"{checkout}:{os.environ['PATH']}")
    if fits:
        assert "['-m', 'venv', '.venv']" in done.stdout
    else:
        (line, *_) = done.stderr.splitlines()
        assert line.startswith(f"error: python3 is Python {version}, and Python 3.11.4 to 3.13 is")
        assert line.endswith("and name it: make PYTHON=python3.13")
        assert not done.stdout


def test_a_missing_python_is_told_too(checkout: Path) -> None:
    for name in ("cpu", "gpu"):
        (checkout / f".venv/installed-{name}").unlink()
    done = make(checkout, "compare", "PYTHON=python3.99")
    assert "error: python3.99 is missing, and Python 3.11.4 to 3.13 is needed" in done.stderr


def test_make_and_the_wheel_take_the_same_pythons() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["requires-python"] == ">=3.11.4,<3.14"
    assert "(3, 11, 4) <= sys.version_info < (3, 14)" in (CHECKOUT / "Makefile").read_text("utf-8")
