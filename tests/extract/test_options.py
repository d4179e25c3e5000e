"""The shared options: `~` in every path, and one line for a wrong value."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from extract import __main__ as extract
from extract import options
from tests.conftest import not_on_windows


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that runs a command line in this process and gives its exit code."""

    def called(main: Callable[[], None], *words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["onepass", *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert isinstance(end.value.code, int)
        return end.value.code

    return called


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "COMMAND"),
        (["chess", "--seed", "-1"], "--seed: -1 is less than 0"),
        (["chess", "--seed", "4294967296"], "--seed: 4294967296 is more than 4294967295"),
        (["chess", "--seed", "x"], "--seed: invalid whole_number value: 'x'"),
        (["chess", "--engine", "abacus"], "--engine: invalid choice: 'abacus'"),
        (["chess", "--unknown"], "unrecognized arguments: --unknown; see python -m extract"),
        (["my", "photos"], "unrecognized arguments: photos; a path that contains spaces needs"),
        ([""], "DATA: it is empty"),
        pytest.param(["C:\\photos"], "DATA: C:\\photos is a Windows path", marks=not_on_windows),
        (["pets", "--out", "s3://bucket/out"], "--out: s3://bucket/out is a URL, and a path "),
        (["pets", "--out", ""], "--out: it is empty"),
        (["pets", "--weights", "file://server/x"], "--weights: file://server/x names the machine"),
        (["features"], "DATA"),
        (["info"], "FILE"),
        (["verify", "chess"], "chess"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_line(
    words: list[str],
    named: str,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(extract.main, *words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert named in told.err
    assert "see python -m extract" in told.err
    assert len(told.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("read", "wrong"),
    [
        (options.probability, ["60", "nan", "-0.1", "inf", "1.01"]),
        (options.share, ["1", "nan", "-0.1"]),
        (options.positive, ["0", "-1", "nan", "inf"]),
        (options.port, ["0", "-1", "65536", "70000"]),
        (options.at_least(1), ["0", "-3"]),
    ],
)
def test_values_out_of_range_are_refused(read: Callable[[str], object], wrong: list[str]) -> None:
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=text):
            read(text)


def test_values_at_the_ends_of_their_range_are_taken() -> None:
    assert [options.probability(text) for text in ("0", "1")] == [0, 1]
    assert [options.share(text) for text in ("0", "0.99")] == [0, 0.99]
    assert [options.port(text) for text in ("1", "65535")] == [1, 65535]
    assert options.at_least(1)("1") == 1
    assert options.positive("1e-9") == 1e-9


def test_a_tilde_is_the_home_in_paths_and_not_in_urls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert options.path("~/out") == tmp_path / "out"
    assert options.path("~nobody-of-this-name/out") == Path("~nobody-of-this-name/out")
    assert options.data_set("~/photos") == f"{tmp_path}/photos"
    assert options.data_set("chess") == "chess"
    assert options.data_set("s3://bucket/~/photos") == "s3://bucket/~/photos"
    assert options.location("~/cache") == tmp_path / "cache"
    assert options.local("./photo.png") == "./photo.png"
    for read in (options.data_set, options.local):
        assert read("file:///a%20b") == "/a b"
    assert options.path("file:///a%20b") == options.location("file:///a%20b") == Path("/a b")


def test_the_default_command_may_be_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(extract.build, "build", lambda data, chosen: asked.append(data))
    monkeypatch.setattr(extract.maintenance, "info", lambda path: asked.append(f"info {path}"))
    for words in (
        ["chess"],
        ["features", "chess"],
        ["--strict", "chess"],
        ["./info"],
        ["info", "x"],
    ):
        monkeypatch.setattr(sys, "argv", ["onepass", *words])
        extract.main()
    assert asked == ["chess", "chess", "chess", "./info", "info x"]
