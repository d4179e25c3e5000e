import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

STAIRCASE = ["extract", "classify", "finetune"]
"""The rooms, each of which may import from those before it and from itself."""

SOURCES = sorted(path for room in STAIRCASE for path in (CHECKOUT / room).rglob("*.py"))

# What runs code that a file brings along.
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal", "_pickle"}
UNSAFE_CALLS = {"eval", "exec", "__import__", "compile"}
UNSAFE_ATTRIBUTES = {
    "joblib.load",
    "torch.load",
    "yaml.load",
    "np.load",
    "numpy.load",
    "pandas.read_pickle",
    "pd.read_pickle",
    "keras.config.enable_unsafe_deserialization",
}


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the name of every module imported anywhere, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{'.' * node.level}{node.module or ''}"


def dotted(node: ast.AST) -> str:
    """Return ``a.b.c`` for an attribute of a name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def wrong_imports(room: str, tree: ast.AST) -> list[str]:
    """Return the imports that go down the staircase, or hide where they go."""
    below = STAIRCASE[STAIRCASE.index(room) + 1 :]
    return [name for name in imports(tree) if name.startswith(".") or name.split(".")[0] in below]


def unsafe(tree: ast.AST) -> list[str]:
    """Return what could run code from a file that is read."""
    found = [name for name in imports(tree) if name.split(".")[0] in UNSAFE_MODULES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node) in UNSAFE_ATTRIBUTES:
            found.append(dotted(node))
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in names if name in UNSAFE_ATTRIBUTES]
        if isinstance(node, ast.Call) and dotted(node.func) in UNSAFE_CALLS:
            found.append(dotted(node.func))
        if isinstance(node, ast.keyword):
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            if (node.arg, value) in [("safe_mode", False), ("allow_pickle", True)]:
                found.append(f"{node.arg}={value}")
            if (node.arg, value) == ("trusted", True):
                found.append("trusted=True")
    return found


def test_there_is_a_room_for_every_step() -> None:
    assert {path.relative_to(CHECKOUT).parts[0] for path in SOURCES} == set(STAIRCASE)
    assert len(SOURCES) > 15


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_imports_go_up_only(path: Path) -> None:
    room = path.relative_to(CHECKOUT).parts[0]
    assert wrong_imports(room, ast.parse(path.read_text())) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_nothing_runs_code_from_a_file(path: Path) -> None:
    assert unsafe(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import classify.heads",
        "from finetune.train import loop",
        "def f():\n    from classify.results import load",
        "if TYPE_CHECKING:\n    import os, finetune.train",
        "from . import store",
    ],
)
def test_wrong_imports_would_be_found(source: str) -> None:
    assert wrong_imports("extract", ast.parse(source))
    assert not wrong_imports("finetune", ast.parse("from classify import heads\nimport extract"))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from cloudpickle import loads",
        "joblib.load(path)",
        "from joblib import load",
        "eval('1')",
        "np.load(path)",
        "keras.models.load_model(path, safe_mode=False)",
        "skops.io.load(path, trusted=True)",
    ],
)
def test_unsafe_reading_would_be_found(source: str) -> None:
    assert unsafe(ast.parse(source))


def test_safe_calls_are_let_be() -> None:
    source = "model.compile()\nmodel.eval()\njoblib.Parallel()\nskops.io.load(p, trusted=TYPES)"
    assert not unsafe(ast.parse(source))


def test_every_hdf5_file_that_is_read_is_whole() -> None:
    # What weights reads, it reads without what leads to other files.
    allowed = {"extract/store/hdf5.py", "extract/vgg16/weights.py"}
    readers = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and dotted(node.func) == "h5py.File":
                mode = node.args[1].value if isinstance(node.args[-1], ast.Constant) else "r"
                if mode != "w":
                    readers.add(path.relative_to(CHECKOUT).as_posix())
    assert readers == allowed


def test_no_module_is_called_utils() -> None:
    assert not [path for path in SOURCES if "util" in path.stem or "helper" in path.stem]


@pytest.mark.parametrize("module", ["extract.__main__", "classify.__main__"])
def test_commands_do_not_import_what_few_need(module: str) -> None:
    few = {"fsspec", "keras", "ray", "s3fs", "tensorflow", "upath"}
    program = f"import sys, {module}; print(*sorted({few} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_classify_names_keras_nowhere() -> None:
    for path in (CHECKOUT / "classify").rglob("*.py"):
        names = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
        assert not names & {"keras", "tensorflow"}, path


@pytest.mark.parametrize("package", ["finetune/compare", "finetune/report"])
def test_comparing_and_reporting_load_no_keras(package: str) -> None:
    paths = [path.relative_to(CHECKOUT) for path in (CHECKOUT / package).glob("*.py")]
    modules = ", ".join(sorted(".".join(path.with_suffix("").parts) for path in paths))
    program = f"import sys, {modules}; print(*sorted({{'keras', 'tensorflow'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
