"""The repository's own rules: layers, cost of imports, contents of the wheel, pins."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "zipvoice_jax"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# From the bottom up. A layer imports from those below it and from itself, never from a layer
# above or beside it; `config` and `core` alone may use each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__init__",),
    ("config", "core"),
    ("text", "audio"),
    ("data",),
    ("nn",),
    ("models",),
    ("checkpoint",),
    ("flow", "vocoder"),
    ("train", "infer", "align"),
    ("options",),
    # Satellites: what judges, forecasts, measures and compares. Nothing before them knows of them.
    ("judge", "forecast", "bench"),
    ("ablation",),
    ("cli", "__main__"),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def python_files(package: Path = PACKAGE) -> list[Path]:
    return sorted(package.rglob("*.py"))


def imported_modules(path: Path, package: Path) -> list[str]:
    """Absolute dotted names that a file imports, wherever in it the statement stands.

    `from a import b` counts as `a.b`: `b` may be a module, and a layer shows in either.
    """
    inside = [package.name, *path.relative_to(package).parts[:-1]]
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            names += [".".join([*base, alias.name]) for alias in node.names]
    return names


def layer_violations(package: Path) -> list[str]:
    """One sentence for every import that goes up or sideways, or belongs to no known layer."""
    found = []
    for path in python_files(package):
        own = path.relative_to(package).with_suffix("").parts[0]
        if own not in RANK:
            found.append(f"{path.name}: {own} is in no layer; give it a place in LAYERS.")
            continue
        for name in imported_modules(path, package):
            parts = name.split(".")
            if parts[0] != package.name:
                continue
            # What is no module of the package is a name from its __init__.py.
            other = parts[1] if len(parts) > 1 else "__init__"
            is_module = (package / other).is_dir() or (package / f"{other}.py").is_file()
            other = other if is_module else "__init__"
            if other not in RANK:
                found.append(f"{own}/{path.name} imports {other}, which is in no layer.")
                continue
            beside = (
                RANK[other] == RANK[own] and other != own and {own, other} != {"config", "core"}
            )
            if RANK[other] > RANK[own] or beside:
                found.append(f"{own}/{path.name} imports {name}: {own} is not above {other}.")
    return found


def test_no_layer_imports_one_above_or_beside_it():
    assert layer_violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("path", "statement", "is_fine"),
    [
        ("nn/a.py", "from zipvoice_jax.models import b", False),
        ("nn/a.py", "from zipvoice_jax import models", False),
        ("nn/a.py", "import zipvoice_jax.models.b as b", False),
        ("nn/a.py", "from ..models import b", False),
        ("nn/a.py", "def f():\n    from zipvoice_jax.models import b", False),
        ("infer/a.py", "from zipvoice_jax.train import loop", False),
        ("train/a.py", "from .. import infer", False),
        ("core/a.py", "import zipvoice_jax.text", False),
        ("newcomer/a.py", "import math", False),
        ("nn/a.py", "from zipvoice_jax.config import ModelConfig", True),
        ("nn/a.py", "from zipvoice_jax import __version__", True),
        ("nn/a.py", "from . import b", True),
        ("bench/a.py", "from zipvoice_jax.infer import engine", True),
        ("infer/a.py", "from zipvoice_jax.judge import run", False),
        ("config.py", "from zipvoice_jax.core.errors import UserError", True),
    ],
)
def test_the_layer_check_sees_every_kind_of_import(
    tmp_path: Path, path: str, statement: str, is_fine: bool
):
    package = tmp_path / "zipvoice_jax"
    for name in ("nn", "models", "infer", "train", "core", "text", "bench", "judge", "newcomer"):
        (package / name).mkdir(parents=True)
    (package / "config.py").write_text("")
    (package / path).write_text(statement)
    assert (layer_violations(package) == []) is is_fine


def test_every_file_says_what_it_is_for():
    files = python_files() + sorted(
        [*(ROOT / "tests").glob("*.py"), *(ROOT / "tools").glob("*.py")]
    )
    assert len(files) > 5
    silent = [
        str(path.relative_to(ROOT))
        for path in files
        if not (path.name == "__init__.py" and not path.read_text(encoding="utf-8").strip())
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def name_of(requirement: str) -> str:
    """The normalised name of the package that a requirement is about."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def requirements() -> list[str]:
    extras = PROJECT["optional-dependencies"].values()
    return [*PROJECT["dependencies"], *(one for extra in extras for one in extra)]


def test_what_the_package_imports_is_declared():
    imported = {n.split(".")[0] for p in python_files() for n in imported_modules(p, PACKAGE)}
    foreign = imported - set(sys.stdlib_module_names) - {"zipvoice_jax"}
    providers = importlib.metadata.packages_distributions()
    not_for_users = {name_of(one) for one in PROJECT["optional-dependencies"]["dev"]}
    declared = {name_of(one) for one in requirements()} - not_for_users
    undeclared = {m for m in foreign if not {name_of(d) for d in providers.get(m, (m,))} & declared}
    assert {"jax", "flax", "numpy"} <= foreign
    assert undeclared == set()


def modules_after(code: str, extra_path: Path | None = None) -> set[str]:
    """Top-level names in `sys.modules` after `code` ran in a fresh interpreter."""
    # -P and an explicit path: the tree these tests stand in, whatever is installed.
    prelude = f"import sys; sys.path[:0] = {[str(p) for p in (extra_path, ROOT) if p]!r}\n"
    ending = "\nprint('\\nMODULES', *sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", prelude + code + ending],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("\nMODULES ")[2].split())


def test_importing_the_package_is_light():
    loaded = modules_after("import zipvoice_jax")
    assert "zipvoice_jax" in loaded
    heavy = {"torch", "k2", "librosa", "matplotlib", "numba", "jieba", "piper_phonemize"}
    assert loaded & heavy == set()


def test_the_command_line_starts_without_torch_and_k2():
    loaded = modules_after("import zipvoice_jax.cli.main")
    assert "jax" in loaded or "argparse" in loaded
    assert loaded & {"torch", "k2", "librosa", "matplotlib"} == set()


def test_no_module_imports_torch_or_k2(tmp_path: Path):
    # Stand-ins that would be found: an import hidden behind try/except shows up as well.
    for name in ("torch", "k2"):
        (tmp_path / f"{name}.py").write_text("__version__ = '0'\n")
    code = """
import importlib, pkgutil, zipvoice_jax
count = 0
for module in pkgutil.walk_packages(zipvoice_jax.__path__, 'zipvoice_jax.'):
    if not module.name.endswith('__main__'):
        importlib.import_module(module.name)
        count += 1
assert count > 5, count
"""
    assert modules_after(code, extra_path=tmp_path) & {"torch", "k2"} == set()
    assert "torch" in modules_after("import torch", extra_path=tmp_path)


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path):
    code = f"import hatchling.build as b; print(b.build_wheel({str(tmp_path)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        names = wheel.namelist()
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "zipvoice-jax = zipvoice_jax.cli.main:main" in wheel.read(entry_points).decode()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"zipvoice_jax", f"zipvoice_jax-{PROJECT['version']}.dist-info"}
    assert "zipvoice_jax/py.typed" in names
    assets = {path for path in (PACKAGE / "assets").rglob("*") if path.is_file()}
    assert {str(path.relative_to(ROOT)) for path in assets} < set(names)
    shipped = {name for name in names if name.endswith(".py")}
    assert shipped == {str(path.relative_to(ROOT)) for path in python_files()}


def repository_files() -> list[Path]:
    """Files that are, or would be, tracked; all that is not hidden where there is no git."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    else:
        paths = [
            path
            for path in ROOT.rglob("*")
            if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        ]
    return [path for path in paths if path.is_file()]


def test_every_version_is_pinned_by_name_alone():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert "pip compile" in "".join(lines[:3])
    pins = [line for line in lines if line.strip() and not line.startswith("#")]
    pin = re.compile(r"[a-z0-9-]+==[0-9][a-z0-9.+]*( ; [a-z_]+ [a-zA-Z0-9_ .<>=!'()]+)?")
    assert [line for line in pins if not pin.fullmatch(line)] == []
    assert not any("://" in line for line in lines)
    wanted = requirements()
    assert {name_of(one) for one in wanted} <= {line.split("==")[0] for line in pins}
    unbounded = [one for one in wanted if not re.search(r">=[\d.]+,<[\d.]+$", one)]
    assert unbounded == []


def test_lock_files_hold_no_addresses():
    locks = {"uv.lock", "poetry.lock", "pdm.lock", "package-lock.json", "Pipfile.lock"}
    files = [p for p in repository_files() if p.name in locks or p.match("requirements*.txt")]
    assert [path for path in files if "://" in path.read_text(encoding="utf-8")] == []


def test_the_recordings_are_what_their_list_says(data: Path):
    prompts = json.loads((data / "prompts.json").read_text(encoding="utf-8"))
    assert {one["file"] for one in prompts} == {path.name for path in data.glob("*.flac")}
    for one in prompts:
        info = soundfile.info(data / one["file"])
        assert (info.samplerate, info.channels, info.frames, info.subtype) == (
            one["sampling_rate"],
            one["channels"],
            one["samples"],
            "PCM_16",
        )
        assert one["text"]
        assert one["licence"]
    first, second, stereo = (
        soundfile.read(data / one["file"], dtype="int16")[0] for one in prompts
    )
    assert prompts[0]["speakers"] != prompts[1]["speakers"]
    assert 2.5 <= len(first) / 16000 <= 5.0
    assert 2.5 <= len(second) / 16000 <= 5.0
    assert (stereo[: len(first), 0] == first).all()
    assert (stereo[len(first) :, 1] == second).all()
    assert not stereo[: len(first), 1].any()
    assert not stereo[len(first) :, 0].any()
    assert sum(path.stat().st_size for path in data.iterdir()) < 500_000
