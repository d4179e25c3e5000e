"""The private names of scikit-learn and joblib that the code uses are as the code expects them.

A release of either package may move or change such a name without notice. That is why
``pyproject.toml`` has an upper bound for both, which may be raised once these tests pass with the
new release.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from tests.conftest import CHECKOUT

CALLED = {
    "joblib.externals.loky": {"ProcessPoolExecutor": {"max_workers", "initializer"}},
    "joblib.parallel.BatchedCalls": {"__call__": {"self"}},
    "sklearn.linear_model._base.LinearClassifierMixin": {
        "decision_function": {"X"},
        "predict": {"X"},
    },
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer": {},
    "sklearn.utils.validation._check_sample_weight": {"": {"sample_weight", "X", "dtype"}},
}
"""What of each name the code uses: attributes, "" for the name itself, and their parameters."""


def names(source: str) -> Iterator[str]:
    """Yield the names of scikit-learn and joblib in Python code: imported, or in a string."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = [node.value]
        else:
            continue
        yield from (name for name in found if re.fullmatch(r"(sklearn|joblib)(\.\w+)+", name))


def is_private(name: str) -> bool:
    """Return whether a name is not part of the package's documented interface."""
    package, *_, last = name.split(".")
    return "._" in name or (package == "joblib" and last not in joblib.__all__)


def users() -> dict[str, list[str]]:
    """Return the modules that use each private name."""
    found: dict[str, list[str]] = {}
    for package in ("extract", "classify", "finetune"):
        for path in sorted((CHECKOUT / package).rglob("*.py")):
            for name in filter(is_private, names(path.read_text())):
                found.setdefault(name, []).append(path.relative_to(CHECKOUT).as_posix())
    return found


USERS = users()


def moved(name: str, what: str) -> str:
    """Return the message of a test that fails: the package, its release, and who relies on it."""
    package = "joblib" if name.startswith("joblib.") else "scikit-learn"
    return f"{package} {version(package)}: {name} {what}; it is used in {USERS.get(name)}"


def test_every_private_name_in_the_code_is_tested_here() -> None:
    assert set(USERS) == set(CALLED)


@pytest.mark.parametrize("name", CALLED)
def test_a_private_name_has_what_the_code_uses_of_it(name: str) -> None:
    module, _, last = name.rpartition(".")
    try:
        found = getattr(import_module(module), last)
    except (ImportError, AttributeError):
        pytest.fail(moved(name, "does not exist any more"))
    for attribute, parameters in CALLED[name].items():
        assert not attribute or hasattr(found, attribute), moved(name, f"has no {attribute}")
        called = getattr(found, attribute) if attribute else found
        missing = sorted(parameters - set(inspect.signature(called).parameters))
        what = f"takes no {missing} in {attribute or 'its call'}"
        assert not missing, moved(name, what)


def test_the_optimizer_in_a_saved_mlp_is_the_trusted_one() -> None:
    name = "sklearn.neural_network._stochastic_optimizers.AdamOptimizer"
    mlp = MLPClassifier((2,), batch_size=2).partial_fit(np.eye(2), [0, 1], classes=[0, 1])
    kept = type(mlp._optimizer)
    assert f"{kept.__module__}.{kept.__qualname__}" == name, moved(name, "is not what an MLP keeps")


def test_calls_of_joblib_are_triples_that_a_backend_may_replace() -> None:
    name = "joblib.parallel.BatchedCalls"
    seen: list[Any] = []

    class Backend(joblib.parallel.ParallelBackendBase):
        supports_retrieve_callback = True

        def effective_n_jobs(self, n_jobs: int) -> int:
            return 2

        def submit(self, func: Any, callback: Any) -> Any:
            seen.append(func)
            func.items = [(call, (-7,), named) for call, values, named in func.items]
            answer = func()
            callback(answer)
            return answer

        def retrieve_result_callback(self, out: Any) -> Any:
            return out

    with joblib.parallel_config(Backend(nesting_level=0)):
        answers = joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(value) for value in (-1, -2))
    assert all(isinstance(calls, joblib.parallel.BatchedCalls) for calls in seen), moved(
        name, "is not what a backend is given"
    )
    assert answers == [7, 7], moved(name, "does not run the calls in its items")
