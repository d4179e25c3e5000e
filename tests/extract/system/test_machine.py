from pathlib import Path

import pytest

from extract.system import machine


@pytest.mark.parametrize(("gpu", "told"), [(True, "2 cores, NVIDIA GPU"), (False, "2 cores")])
def test_machine_names_the_gpu(monkeypatch: pytest.MonkeyPatch, gpu: bool, told: str) -> None:
    monkeypatch.setattr(machine, "processor", lambda: "2 cores")
    monkeypatch.setattr(machine, "has_gpu", lambda: gpu)
    assert machine.machine() == told


def test_gpus_are_named_without_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (machine.gpu(), machine.has_gpu()) == ("", False)
    command = tmp_path / "nvidia-smi"
    command.write_text('#!/bin/sh\necho "GPU 0: NVIDIA H200 (UUID: GPU-1)"\n')
    command.chmod(0o755)
    assert (machine.gpu(), machine.has_gpu()) == ("NVIDIA H200", True)
    command.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert (machine.gpu(), machine.has_gpu()) == ("", False)


@pytest.mark.parametrize(
    ("flags", "does"),
    [
        ("avx2 avx512f avx512_bf16", True),
        ("avx512f avx512_bf16 amx_bf16 amx_tile", True),
        ("avx2 avx512f avx512_vnni", False),
        ("", False),
    ],
)
def test_the_processor_says_whether_it_multiplies_bfloat16(
    monkeypatch: pytest.MonkeyPatch, flags: str, does: bool
) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda: f"flags\t: fpu {flags}\n")
    assert machine.multiplies_bfloat16() is does
