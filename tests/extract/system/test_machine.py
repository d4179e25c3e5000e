import pytest

from extract.system import machine


@pytest.mark.parametrize(("gpu", "told"), [(True, "2 cores, NVIDIA GPU"), (False, "2 cores")])
def test_machine_names_the_gpu(monkeypatch: pytest.MonkeyPatch, gpu: bool, told: str) -> None:
    monkeypatch.setattr(machine, "processor", lambda: "2 cores")
    monkeypatch.setattr(machine, "has_gpu", lambda: gpu)
    assert machine.machine() == told
