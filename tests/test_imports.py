"""The public door, and what importing must not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import thawline

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "openvino",
    "sklearn",
    "skimage",
    "scipy",
    "pandas",
    "matplotlib",
    "PIL",
    "pyarrow",
    "skops",
)
IMPORT_DOOR = "import thawline"
SHOW_HELP = """
import contextlib, runpy
sys.argv = ["thawline", "--help"]
with contextlib.suppress(SystemExit):
    runpy.run_module("thawline.cli", run_name="__main__")
"""
IMPORT_ALL = """
DEFINED = {  # made from classes of a heavy library; whoever needs them imports them where they are used
    "thawline.estimator",
    "thawline.learn.architectures",
}
import importlib, pkgutil, thawline
names = [module.name for module in pkgutil.walk_packages(thawline.__path__, "thawline.")]
assert len(names) > 30, names
for name in names:
    if name not in DEFINED:
        importlib.import_module(name)
"""
RESOLVE_ALL = """
import thawline
for name in thawline.__all__:
    if name != "ThawClassifier":
        getattr(thawline, name)
"""
USE_ESTIMATOR = """
import thawline
thawline.ThawClassifier()
"""


def list_loaded(code):
    """Run code in an interpreter of its own and list the heavy libraries that it loaded."""
    script = f"import sys\n{code}\nprint('loaded:', *sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].removeprefix("loaded:").split()


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        pytest.param(IMPORT_DOOR, id="import thawline"),
        pytest.param(SHOW_HELP, id="thawline --help"),
        pytest.param(IMPORT_ALL, id="every module"),
        pytest.param(RESOLVE_ALL, id="every public name"),
    ],
)
def test_nothing_heavy_is_loaded(code):
    assert list_loaded(code) == []


@pytest.mark.slow
def test_the_estimator_loads_no_network_library():
    assert not {"torch", "torchvision", "timm", "openvino"} & set(list_loaded(USE_ESTIMATOR))


def test_help_lists_the_commands():
    done = subprocess.run([sys.executable, "-m", "thawline.cli", "--help"], capture_output=True, text=True, check=True)
    for command in ("run", "demo", "predict", "report", "cache"):
        assert f"\n  {command} " in done.stdout


def test_the_public_door_has_these_names_and_no_others():
    assert sorted(thawline.__all__) == [
        "Contract",
        "DataError",
        "Dataset",
        "InputError",
        "LeakError",
        "Model",
        "OwnNetwork",
        "Plan",
        "RunOptions",
        "RunResult",
        "ThawClassifier",
        "ThawlineError",
        "__version__",
        "load_dataset",
        "load_model",
        "plan_only",
        "read_plan",
        "run",
    ]
    assert dir(thawline) == sorted(thawline.__all__)


@pytest.mark.parametrize("name", thawline.__all__)
def test_every_public_name_resolves_and_is_explained(name):
    found = getattr(thawline, name)
    assert isinstance(found, str) or (found.__name__ == name and found.__doc__)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fine_tune'"):
        _ = thawline.fine_tune
