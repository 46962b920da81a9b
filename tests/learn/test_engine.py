"""The engine: the same features whichever engine, batch or order, at the precision that was asked for."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from scipy.spatial.distance import cosine
from skimage import data as photographs

from thawline.cache import Space, evict
from thawline.data.transforms import prepare
from thawline.errors import ModelError, OptionError, OutputError
from thawline.learn import engine as engine_module
from thawline.learn.engine import (
    OpenVinoEngine,
    TorchEngine,
    allowed_precisions,
    detect_hardware,
    import_openvino,
    name_engine,
    open_engine,
    smallest_cosine,
)
from thawline.learn.loading import load_backbone
from thawline.learn.weight_files import read_sidecar
from thawline.learn.weights import find_weights
from thawline.types import Contract, Hardware

HARDWARE = Hardware(cores=2, memory_mib=1000)
NAMES = ("chelsea", "coffee", "astronaut", "rocket", "camera")


def make_contract(weights, precision="f32", wide=False):
    about, wide_range = weights.architecture, (0.0, 255.0) if wide else None
    return Contract(about.size_px, about.mean, about.std, about.interpolation, "crop", wide_range, precision)


def list_batches(inputs, sizes):
    stops = np.cumsum(sizes)
    assert stops[-1] == len(inputs)
    return [inputs[stop - size : stop] for stop, size in zip(stops, sizes, strict=True)]


def run_engine(engine, inputs, sizes=None):
    n_items = engine.batch_items
    sizes = sizes or [min(n_items, len(inputs) - start) for start in range(0, len(inputs), n_items)]
    return np.concatenate(list(engine.run(list_batches(inputs, sizes))))


def run_torch(weights, inputs):
    """The referee: the plain network in float32, one item at a time."""
    import torch

    about, network = weights.architecture, load_backbone(weights)
    normal = (torch.from_numpy(inputs).float() / 255 - torch.tensor(about.mean)) / torch.tensor(about.std)
    with torch.no_grad():
        return np.concatenate([network(item[None].permute(0, 3, 1, 2)).numpy() for item in normal])


def assert_equal_features(found, expected):
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert smallest_cosine(found, expected) >= 0.9999


# --- the default backbone on photographs ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite0():
    return find_weights("efficientnet_lite0")


@pytest.fixture(scope="module")
def pictures(lite0):
    """Five photographs as the contract wants them, uint8."""
    return np.stack([prepare(getattr(photographs, name)(), make_contract(lite0)) for name in NAMES])


@pytest.fixture(scope="module")
def reference(lite0, pictures):
    return run_torch(lite0, pictures)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [OpenVinoEngine, TorchEngine])
@pytest.mark.parametrize("wide", [False, True], ids=["uint8", "float32"])
def test_engines_agree_with_the_plain_network(lite0, pictures, reference, kind, wide):
    about = HARDWARE.cores if kind is OpenVinoEngine else HARDWARE
    engine = kind(lite0, make_contract(lite0, wide=wide), about)
    if not wide:
        assert_equal_features(run_engine(engine, pictures), reference)
        return
    between = pictures * np.float32(0.9) + np.float32(0.37)  # values that no uint8 has
    assert_equal_features(run_engine(engine, between), run_torch(lite0, between))


@pytest.mark.slow
def test_telemetry_is_not_loaded(lite0):
    open_engine(lite0, make_contract(lite0), HARDWARE)
    loaded = [name for name in sys.modules if name.startswith("openvino_telemetry") and sys.modules[name] is not None]
    assert loaded == []
    assert sys.modules["openvino_telemetry"] is None


# --- structure, on a tiny network -------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tiny_file):
    return read_sidecar(tiny_file, "tiny")


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (11, 64, 64, 3), dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [OpenVinoEngine, TorchEngine])
def test_batches_change_neither_features_nor_order(tiny, noise, kind):
    engine = kind(tiny, make_contract(tiny), 2 if kind is OpenVinoEngine else HARDWARE)
    found = run_engine(engine, noise)
    assert_equal_features(found, run_torch(tiny, noise))
    for sizes in ([1, 1, 1, 8], [5, 6], [3, 8]):
        np.testing.assert_array_equal(run_engine(engine, noise, sizes), found)
    shuffled = np.random.default_rng(1).permutation(11)
    np.testing.assert_array_equal(run_engine(engine, noise[shuffled]), found[shuffled])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [OpenVinoEngine, TorchEngine])
def test_features_come_batch_by_batch(tiny, noise, kind):
    engine = kind(tiny, make_contract(tiny), 2 if kind is OpenVinoEngine else HARDWARE)
    assert list(engine.run([])) == []
    assert [len(batch) for batch in engine.run(list_batches(noise, [7, 1, 3]))] == [7, 1, 3]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [OpenVinoEngine, TorchEngine])
def test_an_error_among_the_batches_passes_through_and_the_engine_goes_on(tiny, noise, kind):
    engine = kind(tiny, make_contract(tiny), 2 if kind is OpenVinoEngine else HARDWARE)
    expected = run_engine(engine, noise)

    def break_off():
        yield noise[:8]
        yield noise[8:]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(engine.run(break_off()))
    np.testing.assert_array_equal(run_engine(engine, noise), expected)


SHORT_LIVES = """
import sys
import numpy as np
from pathlib import Path
from thawline.learn.engine import OpenVinoEngine
from thawline.learn.weight_files import read_sidecar
from thawline.types import Contract
weights, half = read_sidecar(Path(sys.argv[1]), "tiny"), (0.5, 0.5, 0.5)

def live(number):
    engine = OpenVinoEngine(weights, Contract(64, half, half), 2)
    for _ in range(3):
        run = engine.run([np.zeros((1, 64, 64, 3), np.uint8)] * 20)
        next(run) if number % 2 else list(run)

for number in range(10):
    live(number)
print("done")
"""


@pytest.mark.slow
def test_an_engine_may_end_at_any_time(tiny_file):
    """Letting go of an engine must not wait for threads that wait for the interpreter, nor abort it on its way out."""
    done = subprocess.run(
        [sys.executable, "-c", SHORT_LIVES, str(tiny_file)], capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


OVERLAPPING_LIVES = """
import os, signal, sys
from pathlib import Path
from thawline.learn.engine import OpenVinoEngine
from thawline.learn.weight_files import read_sidecar
from thawline.types import Contract
signal.signal(signal.SIGINT, signal.default_int_handler)
weights, half = read_sidecar(Path(sys.argv[1]), "tiny"), (0.5, 0.5, 0.5)
for _ in range(3):
    engine = OpenVinoEngine(weights, Contract(64, half, half), 2)  # the one before ends after this one has begun
del engine
try:
    os.kill(os.getpid(), signal.SIGINT)
    print("went on")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no signals between processes")
def test_ctrl_c_interrupts_whatever_engines_came_and_went(tiny_file):
    """A library that changes how signals are delivered, and back in the wrong order, makes Ctrl-C a segmentation fault."""
    command = [sys.executable, "-c", OVERLAPPING_LIVES, str(tiny_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


@pytest.mark.slow
def test_mean_and_deviation_of_the_contract_are_applied(tiny, noise):
    plain = run_engine(OpenVinoEngine(tiny, make_contract(tiny), 2), noise)
    other = Contract(64, (0.1, 0.2, 0.3), (0.9, 0.8, 0.7), "bicubic")
    assert not np.allclose(plain, run_engine(OpenVinoEngine(tiny, other, 2), noise), atol=1e-3)
    pairs = [
        run_engine(kind(tiny, other, about), noise) for kind, about in ((OpenVinoEngine, 2), (TorchEngine, HARDWARE))
    ]
    assert_equal_features(*pairs)


@pytest.mark.slow
def test_precision_is_set_explicitly(tiny):
    for precision in allowed_precisions(detect_hardware("cpu")):
        engine = OpenVinoEngine(tiny, make_contract(tiny, precision), 2)
        element = getattr(import_openvino().Type, precision)
        assert engine._compiled.get_property("INFERENCE_PRECISION_HINT") == element


@pytest.mark.slow
def test_a_narrow_precision_on_the_cpu_stays_close(tiny, noise):
    reference = run_torch(tiny, noise[:3])
    found = run_engine(TorchEngine(tiny, make_contract(tiny, "bf16"), HARDWARE), noise[:3])
    assert found.dtype == np.float32
    assert smallest_cosine(found, reference) >= 0.99
    assert np.abs(found - reference).max() > 1e-4 * np.abs(reference).max()  # it was bf16 indeed


@pytest.mark.slow
def test_a_converted_network_is_kept_used_again_and_made_anew_once_evicted(tiny, noise, monkeypatch, tmp_path):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path))
    first = run_engine(OpenVinoEngine(tiny, make_contract(tiny), 2), noise)
    (model,) = tmp_path.rglob("model.xml")
    assert json.loads((model.parent / "settings.json").read_text("utf-8")) == {}
    for path in model.parent.iterdir():
        os.utime(path, (0, 0))
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "load_backbone", lambda weights: pytest.fail("converted again"))
        np.testing.assert_array_equal(run_engine(OpenVinoEngine(tiny, make_contract(tiny), 2), noise), first)
        run_engine(OpenVinoEngine(tiny, make_contract(tiny, wide=True), 2), noise.astype(np.float32))
        with pytest.raises(pytest.fail.Exception, match="converted again"):  # for another size
            OpenVinoEngine(tiny, Contract(96, (0.5,) * 3, (0.5,) * 3), 2)
    assert model.stat().st_mtime > 0  # last used now
    assert not list(tmp_path.rglob(".writing-*"))
    assert evict(limit=0) > 0
    assert not list(tmp_path.rglob("model.*"))
    np.testing.assert_array_equal(run_engine(OpenVinoEngine(tiny, make_contract(tiny), 2), noise), first)


@pytest.mark.slow
def test_a_conversion_that_cannot_be_stored_leaves_nothing(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path))
    monkeypatch.setattr(import_openvino(), "convert_model", lambda backbone, **options: None)

    def fail(model, path, **options):
        path.write_bytes(b"half")
        raise RuntimeError("no space left on device")

    monkeypatch.setattr(import_openvino(), "save_model", fail)
    with pytest.raises(OutputError, match=r"no space left.*free some space"):
        OpenVinoEngine(tiny, make_contract(tiny), 2)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list((tmp_path / "engine").iterdir()) == []


@pytest.mark.slow
def test_where_fused_kernels_compute_something_else_the_engine_runs_without_them(tiny, noise, monkeypatch, tmp_path):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path))
    run_once = engine_module._run_once
    monkeypatch.setattr(engine_module, "_run_once", lambda *about: run_once(*about) * (1 if about[2] else 1.02))
    engine = OpenVinoEngine(tiny, make_contract(tiny), 2)
    (settings,) = tmp_path.rglob("settings.json")
    assert json.loads(settings.read_text("utf-8")) == {"SNIPPETS_MODE": "DISABLE"}
    assert_equal_features(run_engine(engine, noise), run_torch(tiny, noise))
    monkeypatch.setattr(engine_module, "_run_once", lambda *_: pytest.fail("compared again"))
    assert_equal_features(run_engine(OpenVinoEngine(tiny, make_contract(tiny), 2), noise), run_torch(tiny, noise))


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.98, math.nan])
def test_an_engine_that_computes_something_else_is_refused_and_nothing_is_kept(tiny, monkeypatch, tmp_path, factor):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path))
    run_once = engine_module._run_once
    monkeypatch.setattr(engine_module, "_run_once", lambda *about: run_once(*about) * factor)
    with pytest.raises(ModelError, match=r"what torch does for tiny at 64 px, found .*THAWLINE_ENGINE=torch"):
        OpenVinoEngine(tiny, make_contract(tiny), 2)
    assert list((tmp_path / "engine").iterdir()) == []


@pytest.mark.slow
def test_a_network_whose_features_of_noise_are_all_zero_is_not_refused(tiny, monkeypatch, tmp_path):
    import torch

    class Zero(torch.nn.Module):
        def forward(self, images):
            return torch.relu(-images.square().mean((2, 3)))

    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path))
    monkeypatch.setattr(engine_module, "load_backbone", lambda _: Zero().eval())
    OpenVinoEngine(tiny, make_contract(tiny), 2)
    (settings,) = tmp_path.rglob("settings.json")
    assert json.loads(settings.read_text("utf-8")) == {}


@pytest.mark.slow
def test_a_network_that_rounding_alone_changes_is_not_refused(tiny, monkeypatch, tmp_path):
    import torch

    class Chaotic(torch.nn.Module):
        def forward(self, images):
            found = images.square().mean((2, 3)) / 3
            for _ in range(60):  # the logistic map, which doubles a difference in every step
                found = 3.99 * found * (1 - found)
            return found

    run_once = engine_module._run_once
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path))
    monkeypatch.setattr(engine_module, "load_backbone", lambda _: Chaotic().eval())
    monkeypatch.setattr(engine_module, "_run_once", lambda *about: run_once(*about) * 0.9)
    OpenVinoEngine(tiny, make_contract(tiny), 2)
    (settings,) = tmp_path.rglob("settings.json")
    assert json.loads(settings.read_text("utf-8")) == {}


# --- hardware and names -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_engine_is_torch_where_openvino_is_absent_or_there_is_a_gpu(monkeypatch):
    import torch

    assert name_engine(HARDWARE).startswith("openvino 20")
    assert name_engine(Hardware(2, 1000, cuda="a GPU")) == f"torch {torch.__version__}"
    monkeypatch.setenv("THAWLINE_ENGINE", "torch")
    assert name_engine(HARDWARE) == f"torch {torch.__version__}"
    assert not detect_hardware("cpu").bf16


@pytest.mark.slow
def test_the_engine_that_is_named_is_the_one_that_is_opened(tiny, monkeypatch):
    assert isinstance(open_engine(tiny, make_contract(tiny), HARDWARE), OpenVinoEngine)
    monkeypatch.setenv("THAWLINE_ENGINE", "torch")
    assert isinstance(open_engine(tiny, make_contract(tiny), HARDWARE), TorchEngine)


def test_hardware_is_what_the_process_may_use():
    import torch

    found = detect_hardware("auto")
    if torch.cuda.is_available():
        assert found.cuda == detect_hardware("cuda").cuda == torch.cuda.get_device_name()
        assert found.bf16 == torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        assert found.cuda is None
        with pytest.raises(OptionError, match=r"expected a CUDA GPU for --device cuda, found none .* --device cpu"):
            detect_hardware("cuda")
    assert detect_hardware("cpu").cuda is None


@pytest.mark.parametrize(
    ("limit_mib", "free_mib", "memory_mib", "room_mib"),
    [
        (6000, 100_000, 100_000, 3000),  # half of the cache
        (100_000, 6000, 100_000, 1500),  # a quarter of the free disk
        (100_000, 100_000, 6000, 3000),  # half of the memory
        (None, 10**6, 10**6, 5120),  # half of the cache as it is by default
        (0, 100_000, 100_000, 0),
        (7, 9, 9, 2),
    ],
)
def test_the_cache_has_room_for_what_limit_disk_and_memory_allow(
    monkeypatch, tmp_path, limit_mib, free_mib, memory_mib, room_mib
):
    asked = []

    def measure(folder):
        asked.append(folder)
        return SimpleNamespace(total=0, used=0, free=free_mib * 2**20 + 2**20 - 1)

    monkeypatch.setattr(engine_module.shutil, "disk_usage", measure)
    monkeypatch.setattr(engine_module, "count_memory_mib", lambda: memory_mib)
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "not" / "yet" / "there"))
    if limit_mib is not None:
        monkeypatch.setenv("THAWLINE_CACHE_MIB", str(limit_mib))
    found = detect_hardware("cpu")
    assert (found.cache_mib, found.memory_mib) == (room_mib, memory_mib)
    assert asked == [tmp_path]  # the disk that the cache will lie on
    assert not (tmp_path / "not").exists()


def test_what_the_cache_holds_counts_as_free(monkeypatch, tmp_path):
    """So that a run has the same room before and after it has filled some."""
    free = [4000 * 2**20]
    monkeypatch.setattr(engine_module.shutil, "disk_usage", lambda _: SimpleNamespace(total=0, used=0, free=free[0]))
    monkeypatch.setattr(engine_module, "count_memory_mib", lambda: 10**6)
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path))
    before = detect_hardware("cpu").cache_mib
    space = Space("features", {"kind": "room"}, tmp_path)
    space.write([hashlib.sha256(b"a").hexdigest()], np.zeros((1, 2 * 2**20), np.float32))
    free[0] -= sum(path.stat().st_size for path in space.folder.iterdir())
    assert detect_hardware("cpu").cache_mib == before == 1000


def test_the_room_in_the_cache_is_that_of_its_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path))
    monkeypatch.setenv("THAWLINE_CACHE_MIB", "10")
    assert detect_hardware("cpu").cache_mib == 5
    monkeypatch.setenv("THAWLINE_CACHE_MIB", str(10**9))
    hardware = detect_hardware("cpu")
    assert 0 <= hardware.cache_mib <= min(psutil.disk_usage(str(tmp_path)).total / 2**22, hardware.memory_mib / 2)
    monkeypatch.setenv("THAWLINE_CACHE_MIB", "much")
    with pytest.raises(OptionError, match="THAWLINE_CACHE_MIB: expected a whole number of MiB, found 'much'"):
        detect_hardware("cpu")


def test_precisions_follow_the_hardware():
    assert allowed_precisions(Hardware(2, 1000)) == ("f32",)
    assert allowed_precisions(Hardware(2, 1000, bf16=True)) == ("f32", "bf16")


def test_the_smallest_cosine_is_that_of_the_worst_row():
    rng = np.random.default_rng(0)
    ours, reference = rng.normal(size=(2, 9, 20)).astype(np.float32)
    expected = min(1 - cosine(one, other) for one, other in zip(ours, reference, strict=True))
    assert smallest_cosine(ours, reference) == pytest.approx(expected, abs=1e-6)
    assert smallest_cosine(reference * 3, reference) == pytest.approx(1)
    reference[4] = 0
    assert smallest_cosine(np.abs(ours), np.abs(reference)) == 0.0
