"""What this machine can do: one visible table of checks, each of which looks or tries, and says what it found.

Nothing here calls out unless it is asked to. A check that fails is a finding, never the end of the examination; a finding
that a run depends on decides whether ``thawline run`` would work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.resources
import importlib.util
import io
import json
import os
import platform
import re
import shutil
import struct
import tempfile
import textwrap
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import thawline
from thawline.cache import cache_path, limit_bytes, list_spaces
from thawline.cost import count_cores, count_memory_mib
from thawline.data.readers import decode
from thawline.data.transforms import prepare
from thawline.errors import ThawlineError, WeightsError
from thawline.files import write_atomic
from thawline.learn.backbones import DEFAULT_BACKBONE, find_row
from thawline.learn.engine import (
    Engine,
    allowed_precisions,
    detect_hardware,
    name_engine,
    open_core,
    open_engine,
    smallest_cosine,
)
from thawline.learn.weight_files import SUFFIXES, Weights, read_sidecar
from thawline.learn.weights import PACKAGES, find_weights, load_backbone, load_network
from thawline.types import Contract

if TYPE_CHECKING:
    from torch import nn

    from thawline.types import Features, Inputs, Pixels

Status = Literal["ok", "missing", "wrong"]

LOW_MEMORY_MIB = 1536  # the demo's peak
LOW_DISK_MIB = 1024
SELF_TEST_SECONDS = 1.0  # of images, to tell how many a second there are
DIGEST_SECONDS = 8.0  # no more is spent on the digests of weight files; a run checks those that it uses
HUB_SECONDS = 4.0
SMALLEST_COSINE = {"f32": 0.9999, "bf16": 0.99}
PHOTOGRAPHS = ("chelsea.png", "astronaut.png")  # scikit-image brings them: a cat first
CATS = {281, 282, 285}  # of ImageNet's 1000 classes: tabby, tiger cat, Egyptian cat
LOSSY_LEVELS = 6.0  # of 255: what lossy compression may change a smooth image by, on average
DRIVERS = (Path("/proc/driver/nvidia"), Path("/dev/nvidiactl"))
PROCESSOR_FEATURES = (("avx2", "AVX2"), ("avx512f", "AVX-512"), ("amx_tile", "AMX"), ("asimd", "NEON"))
PYTORCH_FILE = "https://download.pytorch.org/models/resnet18-f37072fd.pth"  # where torchvision's weights come from
HUB_FILE = "timm/tf_efficientnet_b0.in1k/resolve/main/config.json"  # what a client asks for, of a mirror as well
BROKEN = "install Thawline in a new environment; if this stays, report it with these lines"
DICOM_PACKAGES = "pip install pydicom pylibjpeg-openjpeg pylibjpeg-rle pyjpegls python-gdcm"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: ``remedy`` says what to do where it is not ok, ``needed`` whether a run depends on it."""

    name: str
    section: str
    status: Status
    found: str
    remedy: str = ""
    needed: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Examination:
    """All findings, in the order of the table of checks."""

    findings: tuple[Finding, ...]

    @property
    def hindrances(self) -> tuple[Finding, ...]:
        """The findings that keep a run from working."""
        return tuple(finding for finding in self.findings if finding.needed and finding.status != "ok")

    @property
    def works(self) -> bool:
        """Whether ``thawline run`` would work on this machine."""
        return not self.hindrances

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data: ``works``, and one dict a finding."""
        return {"works": self.works, "findings": [dataclasses.asdict(finding) for finding in self.findings]}

    def __str__(self) -> str:
        width = max((len(finding.name) for finding in self.findings), default=0)
        lines = []
        for section in dict.fromkeys(finding.section for finding in self.findings):
            lines.append(section)
            for finding in self.findings:
                if finding.section == section:
                    lines += _format_finding(finding, width)
        names = ", ".join(f"{finding.section} ({finding.name})" for finding in self.hindrances)
        end = f"thawline run would not work on this machine: {names}" if names else "thawline run works on this machine"
        return "\n".join([*lines, "", end])


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One row of the table: ``needed`` where a run cannot do without it, ``calls_out`` where it asks other machines."""

    section: str
    look: Callable[[], list[Finding]]
    needed: bool = False
    calls_out: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Encoding:
    """One way to store an image: ``pixels`` is a key of `make_samples`, ``exact`` whether they come back as they were."""

    format: str
    variety: str
    pixels: str
    encode: Callable[[Pixels], bytes]
    exact: bool = True


def examine(online: bool = False) -> Examination:
    """Look at everything that a run needs, and try the engine and the decoders; ``online`` asks the hubs as well."""
    findings = [finding for check in CHECKS for finding in run_check(check, online=online)]
    return Examination(tuple(_hide_home(finding) for finding in findings))


def run_check(check: Check, *, online: bool = False) -> list[Finding]:
    """Run one check; whatever it raises is its finding, and what calls out is left out unless ``online``."""
    if check.calls_out and not online:
        return [Finding(check.section, check.section, "ok", "not asked (thawline doctor --online)")]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return check.look()
    except Exception as error:  # noqa: BLE001 - what does not work here may raise anything
        remedy = "" if isinstance(error, ThawlineError) else BROKEN  # ours say themselves what to do
        return [Finding(check.section, check.section, "wrong", _say_error(error), remedy, needed=check.needed)]


def check_processor() -> list[Finding]:
    """Name the processor, what it can do, the cores this process may use, and its threads."""
    features = [*list_processor_features(), "bf16" if detect_hardware("cpu").bf16 else "no bf16 in the engine"]
    cores = count_cores()
    return [
        Finding("name", "processor", "ok", read_processor_name()),
        Finding("features", "processor", "ok", ", ".join(features)),
        Finding("cores", "processor", "ok", f"{cores} of the machine's {os.cpu_count()} may be used"),
        judge_threads(os.environ.get("OMP_NUM_THREADS"), cores, _list_pools()),
    ]


def read_processor_name(path: Path = Path("/proc/cpuinfo")) -> str:
    """Name the processor as the system does."""
    return _read_processor(path, "model name") or platform.processor() or platform.machine() or "unknown"


def list_processor_features(path: Path = Path("/proc/cpuinfo")) -> list[str]:
    """List those instruction sets that make networks fast; where the system does not say, torch's choice of kernels."""
    flags = (_read_processor(path, "flags") or _read_processor(path, "Features")).split()
    if flags:
        return [name for flag, name in PROCESSOR_FEATURES if flag in flags]
    import torch

    return [torch.backends.cpu.get_cpu_capability()]


def judge_threads(setting: str | None, cores: int, pools: Sequence[str] = ()) -> Finding:
    """Judge OMP_NUM_THREADS: more threads than ``cores`` wait for each other. ``pools`` are those of the libraries."""
    found = "; ".join([f"OMP_NUM_THREADS {'not set' if setting is None else setting}", *pools])
    first = "1" if setting is None else setting.partition(",")[0].strip()  # one number a level of nesting
    if first.isdecimal() and 1 <= int(first) <= cores:
        return Finding("threads", "processor", "ok", found)
    remedy = f"expected OMP_NUM_THREADS from 1 to {cores}, the cores there are; unset it, or set it to {cores}"
    return Finding("threads", "processor", "wrong", found, remedy)


def check_memory() -> list[Finding]:
    """State the memory this process may use, and what is free of it now."""
    import psutil

    total = count_memory_mib()
    return [judge_memory(total, min(total, psutil.virtual_memory().available // 2**20))]


def judge_memory(total_mib: int, free_mib: int) -> Finding:
    """Judge the free memory by what the demo takes at its peak."""
    found = f"{free_mib} MiB free of {total_mib} MiB that may be used"
    if free_mib >= LOW_MEMORY_MIB:
        return Finding("memory", "memory", "ok", found)
    remedy = f"close other programs: the demo takes about {LOW_MEMORY_MIB} MiB at its peak"
    return Finding("memory", "memory", "wrong", found, remedy)


def check_cache() -> list[Finding]:
    """Write and remove a small file in the cache; state what the cache holds, its limit, and the free space."""
    write_atomic(cache_path() / f".doctor-{uuid.uuid4().hex}", b"thawline doctor").unlink()
    held = sum(int(space["bytes"]) for space in list_spaces()) // 2**20
    found = f"{cache_path()} can be written: holds {held} MiB of at most {limit_bytes() // 2**20} MiB"
    return [judge_disk("cache", found, cache_path(), "THAWLINE_CACHE")]


def check_temporary() -> list[Finding]:
    """Write a temporary file, and state the free space there."""
    folder = Path(tempfile.gettempdir())
    with tempfile.TemporaryFile() as file:
        file.write(b"thawline doctor")
    return [judge_disk("temporary files", f"{folder} can be written", folder, "TMPDIR")]


def judge_disk(name: str, found: str, folder: Path, variable: str) -> Finding:
    """Judge the free space of the disk that holds ``folder``, which ``variable`` moves. Raises OSError."""
    free_mib = shutil.disk_usage(folder).free // 2**20
    found = f"{found}; {free_mib} MiB of the disk are free"
    if free_mib >= LOW_DISK_MIB:
        return Finding(name, "disk", "ok", found)
    remedy = f"expected {LOW_DISK_MIB} MiB or more: free some space, or let {variable} name a folder on another disk"
    return Finding(name, "disk", "wrong", found, remedy)


def check_gpu() -> list[Finding]:
    """Name the GPU that torch finds; one with a driver that torch does not find is wrong, none at all is not."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        hardware = detect_hardware()
    if hardware.cuda:
        import torch

        memory_mib = torch.cuda.get_device_properties(0).total_memory // 2**20
        found = f"{hardware.cuda}, {memory_mib} MiB, {'bf16' if hardware.bf16 else 'no bf16 of its own'}"
        return [Finding("GPU", "GPU", "ok", found)]
    if not (any(path.exists() for path in DRIVERS) or shutil.which("nvidia-smi")):
        return [Finding("GPU", "GPU", "ok", "none; the engine runs on the processor")]
    return [_explain_unused_gpu("; ".join(str(warning.message).partition("\n")[0] for warning in said))]


def _explain_unused_gpu(said: str) -> Finding:
    import torch

    if torch.version.cuda is None:
        found = f"a driver of NVIDIA is here, but torch {torch.__version__} is built without CUDA"
        remedy = "install torch with CUDA (https://pytorch.org/get-started/locally); until then the processor is used"
        return Finding("GPU", "GPU", "wrong", found, remedy)
    found = f"a driver of NVIDIA is here, but torch {torch.__version__} finds no GPU: {said or 'no reason given'}"
    remedy = f"update the driver to one for CUDA {torch.version.cuda}, and see what nvidia-smi and CUDA_VISIBLE_DEVICES say"
    return Finding("GPU", "GPU", "wrong", found, remedy)


def check_engine() -> list[Finding]:
    """Run the default backbone with its real weights over two photographs, beside plain torch; let it name the cat."""
    weights, hardware = find_weights(DEFAULT_BACKBONE), detect_hardware()
    contract = _make_contract(weights)
    photographs = importlib.resources.files("skimage") / "data"
    inputs = _stack([prepare(decode((photographs / name).read_bytes()), contract) for name in PHOTOGRAPHS])
    reference = run_plainly(load_backbone(weights), inputs, contract)
    findings = [Finding("engine", "engine", "ok", f"{name_engine(hardware)} on {hardware.cuda or 'the processor'}")]
    for precision in allowed_precisions(hardware):
        engine = open_engine(weights, dataclasses.replace(contract, precision=precision), hardware)
        cosine = smallest_cosine(next(engine.run([inputs])), reference)
        findings.append(judge_cosine(precision, cosine, measure_speed(engine, inputs)))
    return findings + check_cat(weights, inputs[:1], contract)


def judge_cosine(precision: str, cosine: float, images_per_second: float) -> Finding:
    """Judge how well the engine agrees with plain torch; a run falls back on f32, so that is the one it needs."""
    found = f"cosine {cosine:.6f} to plain torch, about {images_per_second:.0f} images a second"
    needed = precision == "f32"
    if cosine >= SMALLEST_COSINE[precision]:
        return Finding(f"self-test {precision}", "engine", "ok", found, needed=needed)
    remedy = f"expected {SMALLEST_COSINE[precision]} or more: set THAWLINE_ENGINE=torch, and report the processor and versions"
    return Finding(f"self-test {precision}", "engine", "wrong", found, remedy, needed)


def check_cat(weights: Weights, inputs: Inputs, contract: Contract) -> list[Finding]:
    """Let the whole network name the cat of ``inputs``: only weights that were trained on ImageNet can do that."""
    if not weights.has_head or "imagenet" not in weights.pretrained_on.lower():
        return []
    logits = run_plainly(load_network(weights), inputs, contract)[0]
    best = [int(index) for index in logits.argsort()[::-1][:5]]
    if CATS & set(best):
        return [Finding("real weights", "engine", "ok", f"{weights.architecture.name} knows a cat", needed=True)]
    found = f"{weights.architecture.name} takes a cat for ImageNet classes {best}"
    remedy = f"expected one of {sorted(CATS)} (cats): the weights in {weights.source} are not what they say; get them again"
    return [Finding("real weights", "engine", "wrong", found, remedy, needed=True)]


def run_plainly(network: nn.Module, inputs: Inputs, contract: Contract) -> Features:
    """Run a network in torch, on the processor, in f32, without any engine: the referee."""
    import torch

    mean, std = torch.tensor(contract.mean), torch.tensor(contract.std)
    with torch.inference_mode():
        outputs: Features = network(((torch.from_numpy(inputs).float() / 255 - mean) / std).permute(0, 3, 1, 2)).numpy()
    return outputs


def measure_speed(engine: Engine, inputs: Inputs, seconds: float = SELF_TEST_SECONDS) -> float:
    """Return images a second of an engine that is kept busy for about so many ``seconds``."""
    batch = _stack([inputs[index % len(inputs)] for index in range(engine.batch_items)])
    began = time.perf_counter()

    def repeat() -> Iterator[Inputs]:
        while time.perf_counter() < began + seconds:
            yield batch

    n_images = sum(len(features) for features in engine.run(repeat()))
    return n_images / (time.perf_counter() - began)


def check_decoders() -> list[Finding]:
    """Store a small image in every way of `ENCODINGS` and read it back through the readers that a run uses."""
    samples = make_samples()
    problems = [(encoding, try_encoding(encoding, samples[encoding.pixels])) for encoding in ENCODINGS]
    read: dict[str, list[str]] = {}
    for encoding, problem in problems:
        if not problem:
            read.setdefault(encoding.format, []).append(encoding.variety)
    findings = [Finding(name, "decoders", "ok", ", ".join(varieties)) for name, varieties in read.items()]
    for encoding, problem in problems:
        if "imagecodecs" in problem:  # tifffile's own words for what it leaves to that package
            name = f"{encoding.format} {encoding.variety}"
            findings.append(Finding(name, "decoders", "missing", "needs a decoder", "pip install imagecodecs"))
        elif problem:
            needed = encoding.format in ("PNG", "JPEG")
            name = f"{encoding.format} {encoding.variety}"
            remedy = "install Pillow and tifffile anew: pip install --force-reinstall Pillow tifffile"
            findings.append(Finding(name, "decoders", "wrong", problem, remedy, needed))
    return findings


def try_encoding(encoding: Encoding, pixels: Pixels) -> str:
    """Store pixels and read them back; return what is wrong, or nothing."""
    import numpy as np

    try:
        found = decode(encoding.encode(pixels))
    except Exception as error:  # noqa: BLE001 - encoders of several libraries
        return _say_error(error)
    if found.shape[:2] != pixels.shape[:2] or found.dtype != pixels.dtype:
        return f"read as {found.dtype} {found.shape}, stored as {pixels.dtype} {pixels.shape}"
    wanted = pixels[..., None] if found.ndim > pixels.ndim else pixels  # a palette is read as colour
    change = float(np.abs(found.astype(np.float64) - wanted).mean())
    if change > (0.0 if encoding.exact else LOSSY_LEVELS):
        return f"pixels differ by {change:.3g} on average"
    return ""


def make_samples() -> dict[str, Pixels]:
    """Make small smooth images, 32 x 24 px, whose low bytes matter as well; grey and colour, 8 and 16 bit and float."""
    import numpy as np

    rows, columns = np.mgrid[0:24, 0:32]
    grey = (4 * columns + 5 * rows).astype(np.uint8)
    colour = np.stack([grey, 255 - grey, 8 * columns.astype(np.uint8)], axis=2)
    wide, wide_colour = grey.astype(np.uint16) * 257 + 3, colour.astype(np.uint16) * 257
    return {
        "grey": grey,
        "colour": colour,
        "wide": np.minimum(wide, 65_535).astype(np.uint16),
        "wide colour": wide_colour ^ np.uint16(0x55),
        "float": grey.astype(np.float32) / 7,
    }


def _save(pixels: Pixels, name: str, mode: str = "", **options: Any) -> bytes:
    from PIL import Image

    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, name, **options)
    return buffer.getvalue()


def _save_wide_png(pixels: Pixels) -> bytes:
    """Write a PNG of 16-bit colour, which Pillow does not."""
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2"))
    header = struct.pack(">2I5B", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _save_wide_tiff(pixels: Pixels, compression: str | None = None) -> bytes:
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="rgb", compression=compression)
    return buffer.getvalue()


def _encode(name: str, **options: Any) -> Callable[[Pixels], bytes]:
    return functools.partial(_save, name=name, **options)


ENCODINGS: tuple[Encoding, ...] = (
    Encoding("PNG", "8-bit grey", "grey", _encode("PNG")),
    Encoding("PNG", "8-bit colour", "colour", _encode("PNG")),
    Encoding("PNG", "palette", "grey", _encode("PNG", mode="P")),
    Encoding("PNG", "16-bit grey", "wide", _encode("PNG")),
    Encoding("PNG", "16-bit colour", "wide colour", _save_wide_png),
    Encoding("JPEG", "grey", "grey", _encode("JPEG", quality=95), exact=False),
    Encoding("JPEG", "colour", "colour", _encode("JPEG", quality=95), exact=False),
    Encoding("JPEG", "progressive", "colour", _encode("JPEG", quality=95, progressive=True), exact=False),
    Encoding("TIFF", "8-bit", "colour", _encode("TIFF")),
    Encoding("TIFF", "LZW", "colour", _encode("TIFF", compression="tiff_lzw")),
    Encoding("TIFF", "deflate", "colour", _encode("TIFF", compression="tiff_adobe_deflate")),
    Encoding("TIFF", "PackBits", "colour", _encode("TIFF", compression="packbits")),
    Encoding("TIFF", "JPEG", "grey", _encode("TIFF", compression="jpeg"), exact=False),
    Encoding("TIFF", "16-bit grey", "wide", _encode("TIFF")),
    Encoding("TIFF", "16-bit grey LZW", "wide", _encode("TIFF", compression="tiff_lzw")),
    Encoding("TIFF", "32-bit float", "float", _encode("TIFF")),
    Encoding("TIFF", "16-bit colour", "wide colour", _save_wide_tiff),
    Encoding("TIFF", "16-bit colour deflate", "wide colour", functools.partial(_save_wide_tiff, compression="zlib")),
    Encoding("TIFF", "16-bit colour LZW", "wide colour", functools.partial(_save_wide_tiff, compression="lzw")),
    Encoding("BMP", "8-bit", "colour", _encode("BMP")),
    Encoding("WebP", "lossless", "colour", _encode("WebP", lossless=True)),
    Encoding("WebP", "lossy", "colour", _encode("WebP", quality=95), exact=False),
)

# The transfer syntaxes that images come in: name, UID, the packages that decode it, and the plug-ins of pydicom that
# decode it whole (none named: any). Pillow reads JPEG Extended of 8 bits only.
TRANSFER_SYNTAXES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("implicit little endian", "1.2.840.10008.1.2", "pydicom", ()),
    ("explicit little endian", "1.2.840.10008.1.2.1", "pydicom", ()),
    ("deflated little endian", "1.2.840.10008.1.2.1.99", "pydicom", ()),
    ("explicit big endian", "1.2.840.10008.1.2.2", "pydicom", ()),
    ("RLE", "1.2.840.10008.1.2.5", "pydicom", ()),
    ("JPEG baseline", "1.2.840.10008.1.2.4.50", "Pillow", ()),
    ("JPEG extended, 12 bit", "1.2.840.10008.1.2.4.51", "python-gdcm", ("gdcm", "pylibjpeg")),
    ("JPEG lossless, process 14", "1.2.840.10008.1.2.4.57", "python-gdcm", ()),
    ("JPEG lossless, SV1", "1.2.840.10008.1.2.4.70", "python-gdcm", ()),
    ("JPEG-LS lossless", "1.2.840.10008.1.2.4.80", "pyjpegls", ()),
    ("JPEG-LS near-lossless", "1.2.840.10008.1.2.4.81", "pyjpegls", ()),
    ("JPEG 2000 lossless", "1.2.840.10008.1.2.4.90", "pylibjpeg pylibjpeg-openjpeg", ("gdcm", "pylibjpeg")),
    ("JPEG 2000", "1.2.840.10008.1.2.4.91", "pylibjpeg pylibjpeg-openjpeg", ("gdcm", "pylibjpeg")),
    ("HTJ2K lossless", "1.2.840.10008.1.2.4.201", "pylibjpeg pylibjpeg-openjpeg", ()),
    ("HTJ2K lossless RPCL", "1.2.840.10008.1.2.4.202", "pylibjpeg pylibjpeg-openjpeg", ()),
    ("HTJ2K", "1.2.840.10008.1.2.4.203", "pylibjpeg pylibjpeg-openjpeg", ()),
)


def check_dicom() -> list[Finding]:
    """Ask pydicom which transfer syntaxes it has a decoder for; without pydicom there is no DICOM."""
    if importlib.util.find_spec("pydicom") is None:
        return [Finding("DICOM", "DICOM", "missing", "pydicom, which reads DICOM, is not installed", DICOM_PACKAGES)]
    get_decoder: Callable[[str], Any] = importlib.import_module("pydicom.pixels").get_decoder
    findings = [Finding("pydicom", "DICOM", "ok", importlib.metadata.version("pydicom"))]
    for name, uid, packages, whole in TRANSFER_SYNTAXES:
        decoder = get_decoder(uid)
        plugins = [each for each in decoder.available_plugins if not whole or each in whole]
        if plugins or (decoder.is_available and not whole):
            findings.append(Finding(name, "DICOM", "ok", ", ".join(plugins) or "stored as it is"))
        else:
            findings.append(Finding(name, "DICOM", "missing", "no decoder", f"pip install {packages}"))
    return findings


def check_default_weights() -> list[Finding]:
    """Find and verify the weights that a run takes where no backbone is named. Raises WeightsError."""
    weights = find_weights(DEFAULT_BACKBONE)
    found = f"{DEFAULT_BACKBONE} from {weights.source}, SHA-256 {weights.sha256[:12]}…, {weights.licence}"
    return [Finding("default backbone", "weights", "ok", found, needed=True)]


def check_weights() -> list[Finding]:
    """List the backbones whose weights are here: in THAWLINE_WEIGHTS, in packages, kept in the cache. Nothing is fetched."""
    packages = [entry.backbone for entry in PACKAGES if importlib.util.find_spec(entry.package)]
    kept = sorted((cache_path() / "weights").glob("*/*.safetensors"))
    given = os.environ.get("THAWLINE_WEIGHTS")
    deadline = time.monotonic() + DIGEST_SECONDS
    if given and not Path(given).is_dir():
        found = f"expected a folder of weights, found {given!r}"
        remedy = "let THAWLINE_WEIGHTS name the folder that holds them, or unset it"
        folder = [Finding("THAWLINE_WEIGHTS", "weights", "wrong", found, remedy, needed=True)]
    elif given:
        files = sorted(path for path in Path(given).iterdir() if path.suffix in SUFFIXES)
        folder = inspect_files("THAWLINE_WEIGHTS", files, deadline)
    else:
        folder = [Finding("THAWLINE_WEIGHTS", "weights", "ok", "not set")]
    return [
        *folder,
        Finding("packages", "weights", "ok", ", ".join(packages) or "none"),
        *inspect_files("cache", kept, deadline),
    ]


def inspect_files(name: str, files: Sequence[Path], deadline: float) -> list[Finding]:
    """Check weight files against their descriptions until ``deadline`` of the monotonic clock; a finding for each wrong one."""
    read, wrong, unread = [], [], 0
    for path in files:
        if time.monotonic() > deadline:
            unread += 1
            continue
        try:
            read.append(name_file(path))
        except WeightsError as error:
            remedy = "fetch the file again with its description, or take it out of there"
            wrong.append(Finding(path.name, "weights", "wrong", str(error), remedy))
    parts = [", ".join(read) or "none", *([f"{unread} not checked, for time"] if unread else [])]
    return [Finding(name, "weights", "ok", "; ".join(parts)), *wrong]


def name_file(path: Path) -> str:
    """Name the backbone of a weight file, checked against its description. Raises WeightsError."""
    architecture = read_sidecar(path, path.stem).architecture
    named = json.loads(path.with_suffix(".json").read_text("utf-8")).get("backbone", "")
    rows = map(find_row, (str(named), path.stem, architecture.model.partition(".")[0]))
    return next((row.name for row in rows if row), f"{architecture.builder}/{architecture.model}")


def check_hub() -> list[Finding]:
    """Ask the hubs that weights are fetched from for the head of a small file each, at the same time."""
    from huggingface_hub import constants

    urls = {"Hugging Face": f"{constants.ENDPOINT}/{HUB_FILE}", "PyTorch": PYTORCH_FILE}
    answers = dict.fromkeys(urls, f"no answer in {HUB_SECONDS:g} s")

    def ask(name: str) -> None:
        answers[name] = ask_url(urls[name])

    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in urls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + HUB_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))  # looking up a name may take far longer than its timeout
    return [judge_answer(name, urls[name], answer) for name, answer in answers.copy().items()]


def ask_url(url: str) -> str:
    """Ask a server for the head of a file; return nothing where it has it, else what went wrong."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": f"thawline/{thawline.__version__}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=HUB_SECONDS):  # noqa: S310 - one of the hubs' addresses
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code} {error.reason}"
    except Exception as error:  # noqa: BLE001 - no network, no name, no certificate, a strange answer
        return _say_error(error)


def judge_answer(name: str, url: str, answer: str) -> Finding:
    """Turn a hub's answer into a finding; no run needs a hub whose weights are here."""
    host = urllib.parse.urlsplit(url).hostname or url
    if not answer:
        return Finding(name, "hub", "ok", f"{host} can be reached")
    remedy = (
        "on a machine with internet run thawline weights pack, copy the folder here and let THAWLINE_WEIGHTS name it; "
        "behind a proxy set HTTPS_PROXY"
    )
    return Finding(name, "hub", "missing", f"{host} cannot be reached: {answer}", remedy)


def check_versions() -> list[Finding]:
    """State the versions of Python, Thawline and its libraries, and find those that are missing or too old."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in importlib.metadata.requires("thawline") or ()]
    wanted = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    fitting, findings = [], []
    for each in wanted:
        version = _find_version(each.name)
        if version is not None and each.specifier.contains(version, prereleases=True):
            fitting.append(f"{each.name} {version}")
            continue
        status: Status = "missing" if version is None else "wrong"
        found = f"expected {each.specifier}, found {version or 'none'}"
        remedy = f"pip install '{each.name}{each.specifier}'"
        findings.append(Finding(each.name, "versions", status, found, remedy, needed=True))
    return [
        Finding("Python", "versions", "ok", f"{platform.python_version()} on {platform.platform()}"),
        Finding("Thawline", "versions", "ok", thawline.__version__),
        Finding("libraries", "versions", "ok", ", ".join(fitting)),
        *findings,
    ]


def check_extras() -> list[Finding]:
    """Find what optional extras lack, and the command that adds each."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in importlib.metadata.requires("thawline") or ()]
    extras = importlib.metadata.metadata("thawline").get_all("Provides-Extra") or []
    findings = []
    for extra in (name for name in extras if name != "dev"):
        own = [each for each in wanted if each.marker and each.marker.evaluate({"extra": extra})]
        own = [each for each in own if each.marker and not each.marker.evaluate({"extra": ""})]
        versions = {each.name: _find_version(each.name) for each in own}
        lacking = [
            each.name for each in own if not each.specifier.contains(versions[each.name] or "0", prereleases=True)
        ]
        lacking += [name for name, version in versions.items() if version is None and name not in lacking]
        if lacking:
            found, remedy = f"not installed: {', '.join(lacking)}", f"pip install 'thawline[{extra}]'"
            findings.append(Finding(extra, "extras", "missing", found, remedy))
        else:
            findings.append(Finding(extra, "extras", "ok", ", ".join(f"{name} {versions[name]}" for name in versions)))
    return findings


CHECKS: tuple[Check, ...] = (
    Check("processor", check_processor),
    Check("memory", check_memory),
    Check("disk", check_cache, needed=True),
    Check("disk", check_temporary),
    Check("GPU", check_gpu),
    Check("engine", check_engine, needed=True),
    Check("decoders", check_decoders, needed=True),
    Check("DICOM", check_dicom),
    Check("weights", check_default_weights, needed=True),
    Check("weights", check_weights),
    Check("hub", check_hub, calls_out=True),
    Check("versions", check_versions),
    Check("extras", check_extras),
)
