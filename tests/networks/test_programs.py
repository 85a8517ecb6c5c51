from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from featcache.networks.engines import programs

PROGRAM = """
import sys
sys.modules["sklearn"] = None  # Keras imports it for its wrappers, in a third of the time
from pathlib import Path
from featcache.networks.engines import programs
programs._DRIVER = Path(sys.argv[1])
programs.keep(Path(sys.argv[2]))
import keras
import numpy as np
from featcache.networks.engines import tensorflow
keras.utils.set_random_seed(0)
for n_filters in (4, 5):
    inputs = keras.Input((16, 16, 3))
    outputs = keras.layers.Conv2D(n_filters, 3, name="one")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(outputs))
    compiled = tensorflow.compile_model(model, "float32", ["/CPU:0"], True, print)
    print(compiled(np.ones((4, 16, 16, 3), np.float32))[0].sum().round(4))
    files = sorted(Path(sys.argv[2]).glob("xla/*/*"), key=lambda path: path.stat().st_mtime_ns)
    print(*(f"{path}|{path.stat().st_mtime_ns}" for path in files), sep="; ")
"""


@pytest.fixture
def driver(tmp_path):
    """What the system says where there is a GPU."""
    folder = tmp_path / "nvidia"
    (folder / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (folder / "gpus" / "0000:01:00.0" / "information").write_text("Model: \t H100\nIRQ: 7\n")
    (folder / "version").write_text("NVRM version: 550.1\n")
    return folder


def test_a_second_process_finds_what_the_first_compiled(driver, tmp_path):
    """On the CPU, where XLA compiles as it does on a GPU.

    Of two programs the second finds one whole, and then the other damaged.
    """

    def run():
        command = [sys.executable, "-c", PROGRAM, str(driver), str(tmp_path / "models")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    one, with_one, other, with_both = run()
    assert with_one.count("|") == 1
    assert with_both.startswith(f"{with_one}; ")
    path = Path(with_both.split("; ")[1].split("|")[0])
    path.write_bytes(path.read_bytes()[:-9])
    damaged = f"{with_one}; {path}|{path.stat().st_mtime_ns}"
    assert run() == [
        one,
        damaged,  # taken from there: otherwise it is written once more
        "A compiled program in the cache is damaged and was removed; going on without XLA.",
        other,
        "",  # all of them, as none says which
    ]


def test_nothing_is_kept_where_there_is_no_gpu_or_it_is_too_late(driver, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_DRIVER", tmp_path / "none")
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    programs.keep(tmp_path / "models")
    assert "TF_XLA_FLAGS" not in os.environ
    assert not programs.forget()
    monkeypatch.setattr(programs, "_DRIVER", driver)
    monkeypatch.setitem(sys.modules, "tensorflow", object())
    programs.keep(tmp_path / "models")
    assert "TF_XLA_FLAGS" not in os.environ
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.setenv("TF_XLA_FLAGS", "--other=1")
    programs.keep(tmp_path / "models")
    (folder,) = (tmp_path / "models" / "xla").iterdir()
    flag = f"--tf_xla_persistent_cache_directory={folder}"
    assert os.environ["TF_XLA_FLAGS"] == f"--other=1 {flag}"
    programs.keep(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
    (driver / "version").write_text("NVRM version: 560.0\n")
    monkeypatch.delenv("TF_XLA_FLAGS")
    programs.keep(tmp_path / "models")
    assert len(list((tmp_path / "models" / "xla").iterdir())) == 2
