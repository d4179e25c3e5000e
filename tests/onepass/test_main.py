"""The command ``onepass`` has the commands of make, and messages name them so."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from extract.system import console
from onepass import __main__ as onepass
from tests import commands
from tests.conftest import CHECKOUT, MakePhotos


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what a command changes in the environment."""
    monkeypatch.setenv("ONEPASS_STARTED_AS", "make")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Note commands and their words instead of running them."""
    noted: list[list[str]] = []
    monkeypatch.setattr(onepass, "_run", lambda word, words: noted.append([word, *words]))
    return noted


def test_every_command_of_make_that_a_user_needs_is_one_of_onepass() -> None:
    targets = re.findall(r"^([a-z]+):.*##", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    of_the_checkout = {"notebook", "test", "check", "bench", "lock", "clean", "distclean", "help"}
    assert set(targets) - of_the_checkout == {"all", *onepass.STEPS, *onepass.USES} - {"export"}


@pytest.mark.parametrize("word", list(onepass.COMMANDS))
def test_a_command_is_there_and_helps_under_its_own_name(word: str) -> None:
    done = commands.run(onepass.main, word, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: onepass {word} ")


def test_all_steps_run_in_order_on_the_same_data_and_folder(calls: list[list[str]]) -> None:
    done = commands.run(onepass.main, "all", "my pets", "--out", "o", "--seed", "3")
    assert done.returncode == 0, done.stderr
    assert [call[0] for call in calls] == ["features", "heads", "compare", "finetune", "compare"]
    assert all(call[-2:] == ["--", "my pets"] and call[1:3] == ["--out", "o"] for call in calls)
    assert all("3" in call for call in calls if call[0] != "compare")


def test_heads_compute_the_features_first_if_there_are_none(
    photos: MakePhotos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, called = onepass._run, []

    def noting(word: str, words: Any) -> None:
        called.append(word)
        if word == "heads":
            run(word, words)

    monkeypatch.setattr(onepass, "_run", noting)
    done = commands.run(onepass.main, "heads", photos(name="pets"), "--out", tmp_path)
    # Here the features are not really computed.
    assert called == ["heads", "features", "heads"]
    assert done.returncode == 2
    assert "no such file; run onepass features first" in done.stderr
    assert os.environ["ONEPASS_STARTED_AS"] == "onepass"


@pytest.mark.parametrize("word", list(onepass.COMMANDS))
def test_a_command_of_a_package_is_named_as_it_was_started(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = onepass.COMMANDS[word]
    text = f"run python -m {command.package} {command.name} pets"
    assert console.as_started(text) == text
    monkeypatch.setenv("ONEPASS_STARTED_AS", "onepass")
    assert console.as_started(text) == f"run onepass {word} pets"


@pytest.mark.parametrize(
    ("of_make", "of_onepass"),
    [
        ("run make features first", "run onepass features first"),
        ("make DATA=chess", "onepass all chess"),
        ("make label DATA='my \"pets\"' POOL=FOLDER", "onepass label 'my \"pets\"' --pool FOLDER"),
        ("make serve DATA=./-a MODEL=finetuned-all", "onepass serve finetuned-all --data ./-a"),
        ('make predict IMAGES="new photos" shows', 'onepass predict svm "new photos" shows'),
        ("(make finetune MODELS=baseline)", "(onepass finetune --models baseline)"),
        (r"make heads DATA=$'a\'b c'; done", r"onepass heads $'a\'b c'; done"),
        ("make features make makefile", "onepass features make makefile"),
    ],
)
def test_variables_of_make_are_options_of_onepass(
    of_make: str, of_onepass: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert console.as_started(of_make) == of_make
    monkeypatch.setenv("ONEPASS_STARTED_AS", "onepass")
    assert console.as_started(of_make) == of_onepass


def test_a_command_that_is_mistyped_gets_one_line(calls: list[list[str]]) -> None:
    done = commands.run(onepass.main, "hedas", "pets")
    assert (done.returncode, calls) == (2, [])
    assert done.stderr == (
        "error: hedas: no such command; did you mean onepass heads? onepass --help lists them\n"
    )
    assert commands.run(onepass.main).stdout.startswith("usage: onepass COMMAND")
    assert commands.run(onepass.main, "--version").stdout.startswith("onepass")
