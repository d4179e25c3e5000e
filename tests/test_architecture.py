import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

PACKAGES = ["extract", "classify", "finetune", "onepass"]
"""A package may import from those before it and from itself."""

SUB_PACKAGES = {
    "extract": ["system", "photos", "vgg16", "engines", "store", "compute", ""],
    "classify": ["model_card", "novelty", "", "heatmaps", "serving", "labeling", "sorting"],
    "finetune": ["train", "compare", "photo_map", "findings", "report", "export", ""],
    "onepass": [""],
}
"""A sub-package may import from those before it and from itself. The empty name stands for the
modules beside the sub-packages, but for the command line, which may import from all of them."""

MODULES = 13
"""The most modules that a folder may have."""

LINES = 60
"""The most lines that a function may have."""

PARAMETERS = 7
"""The most parameters that a function may have."""

SOURCES = sorted(path for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def module_name(path: Path) -> str:
    """Return ``extract.store.shards`` for its file, and ``extract.store`` for its __init__."""
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path) for path in SOURCES}

# Functions that run code contained in a file.
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
    """Yield the name of every module imported anywhere, in functions and for types too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = f"{'.' * node.level}{node.module or ''}"
            inner = {f"{module}.{alias.name}" for alias in node.names} & NAMES
            yield from inner or {module}


def dotted(node: ast.AST) -> str:
    """Return ``a.b.c`` for an attribute of a name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def level(name: str) -> tuple[int, int]:
    """Return the level of a module; it may import from its own level and from lower ones."""
    package, _, rest = name.partition(".")
    subs = SUB_PACKAGES[package]
    sub = rest.partition(".")[0]
    if sub == "__main__":
        return PACKAGES.index(package), len(subs)
    return PACKAGES.index(package), subs.index(sub if sub in subs else "")


def wrong_imports(name: str, tree: ast.AST) -> list[str]:
    """Return the imports that point to a higher level, or hide their target."""
    ours = [found for found in imports(tree) if found.partition(".")[0] in ("", *PACKAGES)]
    return [found for found in ours if found.startswith(".") or level(found) > level(name)]


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return modules that import each other in a circle, if there are any."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def unsafe(tree: ast.AST) -> list[str]:
    """Return the calls that could run code from a file."""
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


def test_every_sub_package_has_its_level() -> None:
    for package, subs in SUB_PACKAGES.items():
        folders = {path.parent.name for path in (CHECKOUT / package).glob("*/__init__.py")}
        assert {*subs} == {*folders, ""}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_point_to_lower_levels(path: Path) -> None:
    assert wrong_imports(module_name(path), ast.parse(path.read_text())) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        module_name(path): set(imports(ast.parse(path.read_text()))) & NAMES - {module_name(path)}
        for path in SOURCES
    }
    assert cycle(graph) == []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_folders_and_functions_stay_small() -> None:
    for folder in {path.parent for path in SOURCES}:
        modules = [path for path in folder.glob("*.py") if not path.stem.startswith("__")]
        assert len(modules) <= MODULES, folder
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                where = f"{relative(path)}:{node.lineno} {node.name}"
                assert (node.end_lineno or 0) - node.lineno < LINES, where
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                names = [argument.arg for argument in given if argument.arg not in ("self", "cls")]
                assert len(names) <= PARAMETERS, where


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_nothing_runs_code_from_a_file(path: Path) -> None:
    assert unsafe(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import classify.heads",
        "from finetune import train",
        "def f():\n    from classify.results import load",
        "if TYPE_CHECKING:\n    import os, finetune.train",
        "from . import shards",
        "from extract.compute import pipeline",
        "from extract import build",
    ],
)
def test_wrong_imports_would_be_found(source: str) -> None:
    assert wrong_imports("extract.store.shards", ast.parse(source))
    assert not wrong_imports("finetune", ast.parse("from classify import heads\nimport extract"))
    lower = "from extract.store import shards\nfrom extract.system import console"
    assert not wrong_imports("extract.store.maintenance", ast.parse(lower))


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


def test_safe_calls_are_allowed() -> None:
    source = "model.compile()\nmodel.eval()\njoblib.Parallel()\nskops.io.load(p, trusted=TYPES)"
    assert not unsafe(ast.parse(source))


def test_every_hdf5_file_is_opened_without_links_to_others() -> None:
    # The module weights reads a file without following links to other files, and network_file
    # refuses a file that has any.
    allowed = {
        "extract/store/hdf5.py",
        "extract/vgg16/network_file.py",
        "extract/vgg16/weights.py",
    }
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


FEW_NEED = {"fsspec", "keras", "ray", "s3fs", "tensorflow", "upath"}


@pytest.mark.parametrize(
    ("modules", "slow"),
    [
        ("extract.build", FEW_NEED),
        ("classify.train, classify.serving.predict, classify.sorting.sort", FEW_NEED),
        # Help, and what is wrong with a command line, come at once.
        ("extract.__main__", FEW_NEED | {"sklearn", "scipy.stats", "matplotlib", "onnx", "MNN"}),
        ("classify.__main__", FEW_NEED | {"sklearn", "scipy.stats", "flask"}),
        ("finetune.__main__", FEW_NEED | {"sklearn", "scipy.stats", "matplotlib", "onnx"}),
        ("onepass.__main__", FEW_NEED | {"sklearn", "scipy.stats", "h5py", "requests"}),
    ],
)
def test_commands_do_not_import_what_few_need(modules: str, slow: set[str]) -> None:
    program = f"import sys, {modules}; print(*sorted({slow} & set(sys.modules)))"
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
