"""The inference engine: frozen networks, fast. OpenVINO on a CPU, torch on a GPU or where OpenVINO is absent.

An engine takes inputs as `transforms.prepare` leaves them (uint8, or float32 on the 0 to 255 scale, channels last) and
returns features; normalisation is part of the network it runs. Precision is set explicitly, never left to the library's
default for the processor.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections import deque
from collections.abc import Generator, Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from thawline.cache import cache_path, limit_bytes, list_spaces
from thawline.cost import count_cores, count_memory_mib
from thawline.errors import ModelError, OptionError, OutputError
from thawline.files import json_digest, said_plainly, write_json
from thawline.learn.loading import fit_weights, load_backbone
from thawline.learn.weight_files import Weights
from thawline.types import Contract, Hardware, Precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import Features, Inputs

BATCH_ITEMS = 8
BATCH_ITEMS_CUDA = 64
LARGEST_DIFFERENCE = 0.01  # of what the engine and torch compute in f32, as a share of the largest value
SHAKE = 1e-6  # a relative change of the input, some roundings wide
# the second where the first computes something else: OpenVINO's own kernels are wrong for some small windows of attention
SETTINGS: tuple[dict[str, str], ...] = ({}, {"SNIPPETS_MODE": "DISABLE"})
ENGINE_VERSION = 3  # part of every cache key: raise it when the same inputs would give other features


class Engine(Protocol):
    """A frozen network that is ready to run."""

    batch_items: int

    def run(self, batches: Iterable[Inputs]) -> Generator[Features, None, None]:
        """Yield the features of each batch, in order; the next batch is taken while earlier ones are computed."""


def import_openvino() -> ModuleType:
    """Import OpenVINO with its telemetry off: its own code falls back to a stub when the sender cannot be imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino  # type: ignore[no-any-return]


@functools.cache
def open_core() -> Any:
    """Open OpenVINO, once for the life of the process.

    Its CPU plugin gives the thread a stack for signals, and takes it back in its end. Where the lives of two overlap, the
    end of the second puts back the stack that went with the first: the next signal, such as Ctrl-C, then ends the process.
    """
    return import_openvino().Core()


def detect_hardware(device: str = "auto") -> Hardware:
    """Find what this process may use; ``device`` is auto, cpu or cuda. Raises OptionError for a missing GPU."""
    cuda = None if device == "cpu" else _find_cuda()
    if device == "cuda" and cuda is None:
        raise OptionError("expected a CUDA GPU for --device cuda, found none that torch can use; take --device cpu")
    memory_mib = count_memory_mib()
    bf16 = _has_cuda_bf16() if cuda else _has_cpu_bf16()
    return Hardware(count_cores(), memory_mib, bf16, cuda, _find_cache_room_mib(memory_mib))


def _find_cache_room_mib(memory_mib: int) -> int:
    """Room for one run's activations: half of the cache, a quarter of what the disk has free, half of the memory.

    What the cache holds already counts as free, so that a run finds the room that it had before it filled some.
    """
    folder, held = cache_path(), sum(int(space["bytes"]) for space in list_spaces())
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return min(limit_bytes() // 2**21, (shutil.disk_usage(folder).free + held) // 2**22, memory_mib // 2)


def name_engine(hardware: Hardware) -> str:
    """Name the engine this hardware gets, with its version: part of cache keys and of the report."""
    if hardware.cuda is None and _has_openvino():
        from importlib.metadata import version

        return f"openvino {version('openvino')}"
    import torch

    return f"torch {torch.__version__}"


def list_versions(*others: str) -> dict[str, str]:
    """Return the versions of the libraries that build the network, and of ``others``: its numbers depend on them."""
    from importlib.metadata import version

    return {name: version(name) for name in (*others, "torch", "torchvision", "timm")}


def open_engine(weights: Weights, contract: Contract, hardware: Hardware) -> Engine:
    """Make the frozen backbone of ``weights`` ready to run under ``contract``."""
    weights = fit_weights(weights, contract.size_px, contract.reading)
    if hardware.cuda is None and _has_openvino():
        return OpenVinoEngine(weights, contract, hardware.cores)
    return TorchEngine(weights, contract, hardware)


class OpenVinoEngine:
    """One stream a core, each on one thread, so that decoding threads can share the cores evenly."""

    def __init__(self, weights: Weights, contract: Contract, cores: int) -> None:
        self.batch_items = count_batch(BATCH_ITEMS, weights)
        self._dtype = np.dtype(np.uint8 if contract.wide_range is None else np.float32)
        folder = _convert(weights, contract.size_px)
        model = _read_converted(folder, self.batch_items * weights.n_images)
        self._compiled = open_core().compile_model(
            _add_preprocessing(model, contract, self._dtype),
            "CPU",
            {
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_PRECISION_HINT": contract.precision,
                "INFERENCE_NUM_THREADS": cores,
                "ENABLE_CPU_PINNING": False,
                **json.loads((folder / "settings.json").read_text("utf-8")),
            },
        )
        self._n_requests = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")

    def run(self, batches: Iterable[Inputs]) -> Generator[Features, None, None]:
        """See `Engine.run`."""
        # no AsyncInferQueue: its callbacks ask for the interpreter while the end of the engine holds it, a deadlock
        idle = [self._compiled.create_infer_request() for _ in range(self._n_requests)]
        running: deque[tuple[Any, int]] = deque()

        def take() -> Features:
            request, n_items = running.popleft()
            idle.append(request)
            request.wait()
            return np.array(request.get_output_tensor(0).data[:n_items])

        try:
            for batch in batches:
                if not idle:
                    yield take()
                request = idle.pop()
                running.append((request, len(batch)))
                request.start_async({0: _fill(batch, self.batch_items, self._dtype)})
            while running:
                yield take()
        finally:
            for request, _ in running:
                request.wait()


class TorchEngine:
    """Channels-last torch with autocast, on the GPU or on the CPU."""

    def __init__(self, weights: Weights, contract: Contract, hardware: Hardware) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(hardware.device)
        self.batch_items = count_batch(BATCH_ITEMS_CUDA if hardware.cuda else BATCH_ITEMS, weights)
        self._dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[contract.precision]
        self._dtype_in = np.dtype(np.uint8 if contract.wide_range is None else np.float32)
        self._network = load_backbone(weights).to(self._device)
        if weights.depth is None or not weights.depth.is_volume:
            self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._mean = torch.tensor(contract.mean, device=self._device).mul(255)
        self._std = torch.tensor(contract.std, device=self._device).mul(255)

    def run(self, batches: Iterable[Inputs]) -> Generator[Features, None, None]:
        """See `Engine.run`."""
        torch = self._torch
        reduced = self._dtype is not torch.float32
        for batch in batches:
            filled = torch.from_numpy(_fill(batch, self.batch_items, self._dtype_in)).to(self._device)
            with torch.inference_mode(), torch.autocast(self._device.type, self._dtype, enabled=reduced):
                features = self._network(((filled.float() - self._mean) / self._std).permute(0, 3, 1, 2))
            yield features[: len(batch)].float().cpu().numpy()


def count_batch(n_images: int, weights: Weights) -> int:
    """Return how many items have about so many images; one at least."""
    return max(1, n_images // weights.n_images)


def smallest_cosine(ours: Features, reference: Features) -> float:
    """Smallest cosine between rows of two feature arrays, both of shape (items, features)."""
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(reference, axis=1)
    cosines = (ours * reference).sum(1) / np.maximum(norms, np.finfo(np.float32).tiny)
    return float(cosines.min())


def _fill(batch: Inputs, n_items: int, dtype: np.dtype[Any]) -> Inputs:
    """Repeat the last item up to the fixed batch size: one shape, one kernel, the same numbers for the same item.

    The slices of bags lie one after the other, (items x slices, size_px, size_px, 3).
    """
    missing = n_items - len(batch)
    whole = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
    return np.ascontiguousarray(whole.reshape(-1, *whole.shape[-3:]), dtype=dtype)


def _add_preprocessing(model: Any, contract: Contract, dtype: np.dtype[Any]) -> Any:
    openvino = import_openvino()
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(model)
    element = openvino.Type.u8 if dtype == np.uint8 else openvino.Type.f32
    steps.input().tensor().set_element_type(element).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    prepare = steps.input().preprocess().convert_element_type(openvino.Type.f32)
    prepare.mean([255 * value for value in contract.mean]).scale([255 * value for value in contract.std])
    return steps.build()


def _convert(weights: Weights, size_px: int) -> Path:
    """Convert the backbone once and keep it in a folder of the cache, keyed by weights, structure and versions."""
    key = {
        "weights": weights.sha256,
        "architecture": weights.architecture.to_json(),
        "output": weights.describe_output(),
        "size_px": size_px,
        "engine": ENGINE_VERSION,
        **list_versions("openvino"),
    }
    folder = cache_path() / "engine" / json_digest(key)[:24]
    if not (folder / "model.xml").is_file():
        _write_converted(load_backbone(weights), weights, size_px, folder)
    with contextlib.suppress(OSError):
        (folder / "model.xml").touch()  # the time of last use, which eviction goes by
    return folder


def _read_converted(folder: Path, n_images: int) -> Any:
    """Read a converted network for batches of one size."""
    model = open_core().read_model(folder / "model.xml")
    shape = model.input().partial_shape
    shape[0] = n_images
    model.reshape(shape)
    return model


def _write_converted(backbone: Any, weights: Weights, size_px: int, folder: Path) -> None:
    """Convert a backbone, and keep it with settings under which the engine computes what torch does."""
    import torch

    openvino = import_openvino()
    example = torch.from_numpy(_draw_item(weights.n_images, size_px))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of its own deprecation and of branches that never change here
        # traced here, once: the same graph as when the library traces, in half of the time
        traced = torch.jit.trace(backbone, example, check_trace=False)  # type: ignore[no-untyped-call]
        # frozen, so that weights are constants in one flat graph, which is read in .55 to .9 of the time to the same bits
        frozen = torch.jit.freeze(traced, optimize_numerics=False)
        model = openvino.convert_model(frozen, example_input=example, input=[-1, 3, size_px, size_px])
    with said_plainly(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
    try:
        try:
            openvino.save_model(model, unfinished / "model.xml", compress_to_fp16=False)
        except RuntimeError as error:
            raise OutputError(
                f"the converted network cannot be written to {folder.parent}: {error}; free some space, or move the cache "
                "with THAWLINE_CACHE"
            ) from error
        with said_plainly(folder):
            write_json(unfinished / "settings.json", _find_settings(unfinished, backbone, example, weights))
        with contextlib.suppress(OSError):  # another process was first; its model is the same
            unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _draw_item(n_images: int, size_px: int) -> NDArray[np.float32]:
    """Draw an item whose images are alike, as slices are, float32 of shape (images, 3, size_px, size_px)."""
    draw = np.random.default_rng(0)
    shared, own = draw.normal(size=(1, 3, size_px, size_px)), draw.normal(size=(n_images, 3, size_px, size_px))
    found: NDArray[np.float32] = ((shared + own / 2) / np.sqrt(1.25)).astype(np.float32)  # of variance 1
    return found


def _find_settings(folder: Path, backbone: Any, example: Any, weights: Weights) -> dict[str, str]:
    """Return the first settings under which a batch of one item has the output that torch has for it.

    Raises ModelError where there are none, or the output is not finite.
    """
    import torch

    n_items = count_batch(BATCH_ITEMS, weights)
    batch = np.concatenate([example.numpy()] * n_items)
    with torch.inference_mode():
        expected = backbone(example).numpy().reshape(1, -1)
    largest = np.abs(expected).max()
    for settings in SETTINGS:
        difference = np.abs(_run_once(folder, batch, settings).reshape(n_items, -1) - expected).max()
        if difference <= LARGEST_DIFFERENCE * largest:
            return settings
    with torch.inference_mode():
        shaken = backbone(example * (1 + SHAKE)).numpy().reshape(1, -1)
    if np.abs(shaken - expected).max() > LARGEST_DIFFERENCE * largest:
        return SETTINGS[0]  # rounding alone changes what this network puts out, in torch as well: nothing can be told
    raise ModelError(
        f"expected OpenVINO to compute what torch does for {weights.architecture.name} at {example.shape[-1]} px, found a "
        f"difference of {difference:.3g} where the largest value is {largest:.3g}; take another --size-px, or torch alone "
        "with THAWLINE_ENGINE=torch"
    )


def _run_once(folder: Path, batch: Inputs, settings: dict[str, str]) -> Features:
    """Return what a converted network makes of normalised images, (images, 3, size_px, size_px), in f32."""
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, **settings}
    found: Features = open_core().compile_model(_read_converted(folder, len(batch)), "CPU", options)(batch)[0]
    return found


def _has_openvino() -> bool:
    from importlib.util import find_spec

    return os.environ.get("THAWLINE_ENGINE") != "torch" and find_spec("openvino") is not None


def _has_cpu_bf16() -> bool:
    if not _has_openvino():
        return False
    return "BF16" in open_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _find_cuda() -> str | None:
    """Name the GPU; torch is asked only where a driver is present, since importing it takes seconds."""
    if not (Path("/proc/driver/nvidia").exists() or Path("/dev/nvidiactl").exists() or sys.platform == "win32"):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    torch.backends.cudnn.allow_tf32 = False  # f32 means f32
    torch.backends.cudnn.deterministic = True
    return torch.cuda.get_device_name()


def _has_cuda_bf16() -> bool:
    """Tell whether the GPU multiplies in bf16 itself; older ones emulate it, which is slower than f32."""
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def allowed_precisions(hardware: Hardware) -> tuple[Precision, ...]:
    """Precisions that this hardware computes natively, the widest first."""
    return ("f32", "bf16") if hardware.bf16 else ("f32",)
