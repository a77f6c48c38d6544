"""The package as a whole: lazy, complete, documented, and free of the page."""

from __future__ import annotations

import ast
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fss_core
from fss_core.computing import keep_memory

SOURCES = sorted(Path(fss_core.__file__).parent.rglob("*.py"))
HEAVY = ("torch", "torchvision", "torchattacks", "pandas", "numpy", "scipy", "pyarrow", "mlxtend", "streamlit")


def modules_after(statements: str) -> list[str]:
    """Run statements in a fresh interpreter, and list the heavy packages it has loaded at the end."""
    code = f"{statements}\nimport json, sys\nprint(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_probe_for_lazy_imports_works() -> None:
    assert modules_after("import numpy") == ["numpy"]


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert modules_after("import fss_core\ndir(fss_core)\nimport fss_core.specs, fss_core.cli") == []


@pytest.mark.parametrize("arguments", [["--help"], ["score", "--help"], ["score"], ["nonsense"]])
def test_help_and_wrong_usage_load_nothing_heavy(arguments: list[str]) -> None:
    run = f"import sys\nfrom fss_core.cli import main\ntry:\n    main({arguments})\nexcept SystemExit:\n    pass"
    assert modules_after(run) == []


def test_the_page_can_look_results_up_without_torch() -> None:
    modules = "flow, store, scores, reports, checkpoints, data, archive, exports"
    assert set(modules_after(f"from fss_core import {modules}")) <= {"numpy"}


def test_the_page_can_import_its_own_modules_without_torch() -> None:
    modules = "explore, imports, results, summaries"
    found = modules_after(f"from fss_core import {modules}\nfrom fss_core.jobs import service, rates")
    assert set(found) <= {"numpy", "pandas", "pyarrow"}


@pytest.mark.parametrize("name", fss_core.__all__)
def test_every_public_name_resolves(name: str) -> None:
    found: Any = getattr(fss_core, name)
    assert found.__doc__
    assert name in dir(fss_core)


def test_public_names_are_sorted_and_listed_once() -> None:
    assert list(fss_core.__all__) == sorted(set(fss_core.__all__))
    assert set(fss_core._HOMES) == set(fss_core.__all__)


def test_the_contracts_names_are_there() -> None:
    contract = {
        "load_dataset",
        "build_network",
        "calibrate_epsilon",
        "attack",
        "measure_responses",
        "score_responses",
        "AttackSpec",
    }
    assert contract <= set(fss_core.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fss_core' has no attribute 'nonsense'"):
        fss_core.nonsense  # noqa: B018
    assert not hasattr(fss_core, "_nothing")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_module_is_documented_and_knows_no_streamlit(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstring = ast.get_docstring(tree)
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":"))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [own.name for own in node.names])
    }
    assert "streamlit" not in imported


def test_the_scan_sees_the_package() -> None:
    assert {"scores.py", "board.py", "flow.py"} <= {path.name for path in SOURCES}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "300"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
    ids=["unset", "own count", "own policy"],
)
def test_the_command_shares_cores_before_torch_is_there(
    given: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names} | given
    code = (
        "import os, sys\nfrom fss_core.cli import main\nmain(['runs', 'list'])\n"
        f"print('torch' in sys.modules, {{name: os.environ[name] for name in {names} if name in os.environ}})"
    )
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == f"False {expected}"


_ALLOCATE_AGAIN = """
import resource, sys
if sys.argv[1:]:
    from fss_core.computing import keep_memory
    keep_memory()
import numpy as np
faults = []
for _ in range(4):
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    np.empty(32 << 20, dtype=np.uint8).fill(1)
print(faults[-1] - faults[-2])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told to keep memory")
def test_memory_that_is_given_back_is_used_again() -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MALLOC_")}

    def page_faults(*arguments: str) -> int:
        command = [sys.executable, "-c", _ALLOCATE_AGAIN, *arguments]
        return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    assert page_faults("keep") < 8 < page_faults()


_COUNT_HEAPS = """
import ctypes, sys, threading
from fss_core.computing import spare_memory
if "spare" in sys.argv:
    spare_memory()
libc = ctypes.CDLL(None)
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fdopen.restype = ctypes.c_void_p
libc.fflush.argtypes = [ctypes.c_void_p]
together = threading.Barrier(4)

def allocate():
    taken = bytearray(1000)
    together.wait()
    together.wait()

for _ in range(3):
    threading.Thread(target=allocate).start()
together.wait()
stream = libc.fdopen(1, b"w")
libc.malloc_info(0, stream)
libc.fflush(stream)
together.wait()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has heaps of threads")
def test_threads_share_one_heap_where_memory_is_spared() -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MALLOC_")}

    def num_heaps(*arguments: str, **settings: str) -> int:
        command = [sys.executable, "-c", _COUNT_HEAPS, *arguments]
        done = subprocess.run(command, env=environment | settings, capture_output=True, text=True, check=True)
        return done.stdout.count("<heap nr=")

    assert num_heaps("spare") == 1 < num_heaps()
    assert num_heaps("spare", MALLOC_ARENA_MAX="3") > 1, "the user's own goes first"


def test_processes_started_from_here_keep_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "")
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_")  # and is put back as it was
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5000000")  # the user's own goes first
    keep_memory()
    expected = {"MALLOC_TRIM_THRESHOLD_": "5000000"}
    if sys.platform.startswith("linux"):
        expected["MALLOC_MMAP_THRESHOLD_"] = str(1 << 30)
    assert {name: text for name, text in os.environ.items() if name.startswith("MALLOC_")} == expected
