"""Every command has help, and the help of a package lists its commands."""

import sys
from types import ModuleType

import pytest

from classify import __main__ as classify
from extract import __main__ as extract
from finetune import __main__ as finetune

COMMANDS = {
    extract: ("features", "info", "verify", "gc"),
    classify: ("train", "predict", "serve"),
    finetune: ("train", "compare", "export"),
}


@pytest.mark.parametrize("package", COMMANDS, ids=lambda package: package.__package__)
def test_help_lists_every_command_and_every_command_has_help(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def help_of(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["onepass", *words, "--help"])
        with pytest.raises(SystemExit) as end:
            package.main()
        assert end.value.code == 0
        return capsys.readouterr().out

    listed = help_of()
    for name in COMMANDS[package]:
        assert f"    {name} " in listed
        assert help_of(name).startswith(f"usage: python -m {package.__package__} {name} ")
