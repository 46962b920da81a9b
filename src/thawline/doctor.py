"""What this machine can do: one visible table of checks, each of which looks or tries, and says what it found.

Nothing here calls out unless it is asked to. A check that fails is a finding, never the end of the examination; a finding
that a run depends on decides whether ``thawline run`` would work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.metadata
import importlib.resources
import importlib.util
import os
import platform
import re
import shutil
import tempfile
import textwrap
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import thawline
from thawline.cache import cache_path, limit_bytes, list_spaces
from thawline.cost import count_cores, count_memory_mib, read_processor, read_processor_name
from thawline.data.readers import decode
from thawline.data.transforms import prepare
from thawline.errors import ThawlineError, WeightsError
from thawline.files import write_atomic
from thawline.findings import Finding, find_version, judge, say_error
from thawline.formats import check_decoders, check_dicom, check_slides
from thawline.learn.backbones import DEFAULT_BACKBONE
from thawline.learn.engine import (
    allowed_precisions,
    detect_hardware,
    name_engine,
    open_engine,
    smallest_cosine,
)
from thawline.learn.hub import HUB_SECONDS
from thawline.learn.loading import load_backbone, load_network
from thawline.learn.speed import time_engine
from thawline.learn.weight_files import Weights, read_sidecar
from thawline.learn.weights import PACKAGES, find_packaged, find_weights, list_files, name_file
from thawline.types import Contract

if TYPE_CHECKING:
    from torch import nn

    from thawline.types import Features, Inputs

LOW_MEMORY_MIB = 1536  # the demo's peak
LOW_DISK_MIB = 1024
LINE = 118  # characters
SELF_TEST_SECONDS = 1.0  # of images, to tell how many a second there are
DIGEST_SECONDS = 8.0  # no more is spent on the digests of weight files; a run checks those that it uses
SMALLEST_COSINE = {"f32": 0.9999, "bf16": 0.99}
PHOTOGRAPHS = ("chelsea.png", "astronaut.png")  # scikit-image brings them: a cat first
CATS = {281, 282, 285}  # of ImageNet's 1000 classes: tabby, tiger cat, Egyptian cat
DRIVERS = (Path("/proc/driver/nvidia"), Path("/dev/nvidiactl"))
PROCESSOR_FEATURES = (("avx2", "AVX2"), ("avx512f", "AVX-512"), ("amx_tile", "AMX"), ("asimd", "NEON"))
PYTORCH_FILE = "https://download.pytorch.org/models/resnet18-f37072fd.pth"  # where torchvision's weights come from
HUB_FILE = "timm/tf_efficientnet_b0.in1k/resolve/main/config.json"  # what a client asks for, of a mirror as well
JOB_LIBRARIES = (
    "sklearn",
    "scipy.stats",
    "skimage.feature",
    "pandas",
    "pyarrow.parquet",
    "skops.io",
    "matplotlib",
    "jinja2",
)
BROKEN = "install Thawline in a new environment; if this stays, report it with these lines"


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
        return [Finding(check.section, check.section, "wrong", say_error(error), remedy, needed=check.needed)]


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


def list_processor_features(path: Path = Path("/proc/cpuinfo")) -> list[str]:
    """List those instruction sets that make networks fast; where the system does not say, torch's choice of kernels."""
    flags = (read_processor(path, "flags") or read_processor(path, "Features")).split()
    if flags:
        return [name for flag, name in PROCESSOR_FEATURES if flag in flags]
    import torch

    return [torch.backends.cpu.get_cpu_capability()]


def judge_threads(setting: str | None, cores: int, pools: Sequence[str] = ()) -> Finding:
    """Judge OMP_NUM_THREADS: more threads than ``cores`` wait for each other. ``pools`` are those of the libraries."""
    found = "; ".join([f"OMP_NUM_THREADS {setting or 'not set'}", *pools])
    first = setting.partition(",")[0].strip() if setting else "1"  # one number a level of nesting
    remedy = f"expected OMP_NUM_THREADS from 1 to {cores}, the cores there are; unset it, or set it to {cores}"
    return judge("threads", "processor", found, remedy, fits=first.isdecimal() and 1 <= int(first) <= cores)


def check_memory() -> list[Finding]:
    """State the memory this process may use, and what is free of it now."""
    import psutil

    total = count_memory_mib()
    return [judge_memory(total, min(total, psutil.virtual_memory().available // 2**20))]


def judge_memory(total_mib: int, free_mib: int) -> Finding:
    """Judge the free memory by what the demo takes at its peak."""
    found = f"{free_mib} MiB free of {total_mib} MiB that may be used"
    remedy = f"close other programs: the demo takes about {LOW_MEMORY_MIB} MiB at its peak"
    return judge("memory", "memory", found, remedy, fits=free_mib >= LOW_MEMORY_MIB)


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
    remedy = f"expected {LOW_DISK_MIB} MiB or more: free some space, or let {variable} name a folder on another disk"
    return judge(name, "disk", found, remedy, fits=free_mib >= LOW_DISK_MIB)


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

    found = f"a driver of NVIDIA is here, but torch {torch.__version__} "
    if torch.version.cuda is None:
        found += "is built without CUDA"
        remedy = "install torch with CUDA (https://pytorch.org/get-started/locally); until then the processor is used"
    else:
        found += f"finds no GPU: {said or 'no reason given'}"
        remedy = f"update the driver to one for CUDA {torch.version.cuda}; see nvidia-smi and CUDA_VISIBLE_DEVICES"
    return Finding("GPU", "GPU", "wrong", found, remedy)


def check_engine() -> list[Finding]:
    """Run the default backbone with its real weights over two photographs, beside plain torch; let it name the cat."""
    weights, hardware = find_weights(DEFAULT_BACKBONE), detect_hardware()
    contract = weights.architecture.contract()
    photographs = importlib.resources.files("skimage") / "data"
    inputs = np.stack([prepare(decode((photographs / name).read_bytes()), contract) for name in PHOTOGRAPHS])
    reference = run_plainly(load_backbone(weights), inputs, contract)
    findings = [Finding("engine", "engine", "ok", f"{name_engine(hardware)} on {hardware.cuda or 'the processor'}")]
    for precision in allowed_precisions(hardware):
        engine = open_engine(weights, dataclasses.replace(contract, precision=precision), hardware)
        cosine = smallest_cosine(np.concatenate(list(engine.run([inputs]))), reference)
        batch = inputs[np.arange(engine.batch_items) % len(inputs)]
        findings.append(judge_cosine(precision, cosine, time_engine(engine, batch, SELF_TEST_SECONDS)))
    return findings + check_cat(weights, inputs[:1], contract)


def judge_cosine(precision: str, cosine: float, images_per_second: float) -> Finding:
    """Judge how well the engine agrees with plain torch; a run falls back on f32, so that is the one it needs."""
    found = f"cosine {cosine:.6f} to plain torch, about {images_per_second:.0f} images a second"
    least, needed = SMALLEST_COSINE[precision], precision == "f32"
    remedy = f"expected {least} or more: set THAWLINE_ENGINE=torch, and report this with the processor and the versions"
    return judge(f"self-test {precision}", "engine", found, remedy, fits=cosine >= least, needed=needed)


def check_cat(weights: Weights, inputs: Inputs, contract: Contract) -> list[Finding]:
    """Let the whole network name the cat of ``inputs``: only weights that were trained on ImageNet can do that."""
    if not weights.has_head or not re.search(r"\bimagenet", weights.pretrained_on.lower()):  # not RadImageNet
        return []
    logits = run_plainly(load_network(weights), inputs, contract)[0]
    best = [int(index) for index in logits.argsort()[::-1][:5]]
    found = f"{weights.architecture.name} sees ImageNet classes {best} in the photograph of a cat"
    remedy = f"expected one of {sorted(CATS)} (cats): the weights are not what their description says; get them again"
    return [judge("real weights", "engine", found, remedy, fits=bool(CATS & set(best)), needed=True)]


def run_plainly(network: nn.Module, inputs: Inputs, contract: Contract) -> Features:
    """Run a network in torch, on the processor, in f32, without any engine: the referee."""
    import torch

    mean, std = torch.tensor(contract.mean), torch.tensor(contract.std)
    with torch.inference_mode():
        outputs: Features = network(((torch.from_numpy(inputs).float() / 255 - mean) / std).permute(0, 3, 1, 2)).numpy()
    return outputs


def check_default_weights() -> list[Finding]:
    """Find and verify the weights that a run takes where no backbone is named. Raises WeightsError."""
    weights = find_weights(DEFAULT_BACKBONE)
    found = f"{DEFAULT_BACKBONE} from {weights.source}, SHA-256 {weights.sha256[:12]}…, {weights.licence}"
    return [Finding("default backbone", "weights", "ok", found, needed=True)]


def check_weights() -> list[Finding]:
    """List the backbones whose weights are here: in THAWLINE_WEIGHTS, in packages, kept in the cache. Nothing is fetched."""
    packages = [entry.backbone for entry in PACKAGES if find_packaged(entry) is not None]
    kept = sorted((cache_path() / "weights").glob("*/*.safetensors"))
    given = os.environ.get("THAWLINE_WEIGHTS")
    deadline = time.monotonic() + DIGEST_SECONDS
    if given and not Path(given).is_dir():
        found = f"expected a folder of weights, found {given!r}"
        remedy = "let THAWLINE_WEIGHTS name the folder that holds them, or unset it"
        folder = [Finding("THAWLINE_WEIGHTS", "weights", "wrong", found, remedy, needed=True)]
    elif given:
        files = list_files(Path(given))
        folder = inspect_files("THAWLINE_WEIGHTS", files, deadline)
    else:
        folder = [Finding("THAWLINE_WEIGHTS", "weights", "ok", "not set")]
    carried = Finding("packages", "weights", "ok", ", ".join(packages) or "none")
    return [*folder, carried, *inspect_files("cache", kept, deadline)]


def inspect_files(name: str, files: Sequence[Path], deadline: float) -> list[Finding]:
    """Check weight files against their descriptions until ``deadline`` (monotonic seconds); one finding a wrong file."""
    read, wrong, unread = [], [], 0
    for path in files:
        if time.monotonic() > deadline:
            unread += 1
            continue
        try:
            read_sidecar(path, path.stem)
            read.append(name_file(path))
        except (WeightsError, OSError) as error:
            remedy = "fetch the file again with its description, or take it out of there"
            wrong.append(Finding(path.name, "weights", "wrong", say_error(error), remedy))
    parts = [", ".join(read) or "none", *([f"{unread} not checked, for time"] if unread else [])]
    return [Finding(name, "weights", "ok", "; ".join(parts)), *wrong]


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
        return say_error(error)


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
    fitting, findings = [], []
    for name, specifier, version, fits in list_requirements():
        if fits:
            fitting.append(f"{name} {version}")
            continue
        found, remedy = f"expected {specifier}, found {version or 'none'}", f"pip install '{name}{specifier}'"
        findings.append(Finding(name, "versions", "wrong" if version else "missing", found, remedy, needed=True))
    return [
        Finding("Python", "versions", "ok", f"{platform.python_version()} on {platform.platform()}"),
        Finding("Thawline", "versions", "ok", thawline.__version__),
        Finding("libraries", "versions", "ok", ", ".join(fitting)),
        *findings,
    ]


def check_imports() -> list[Finding]:
    """Import the libraries that the checks before do not use: what is installed may still be broken."""
    findings = []
    for name in JOB_LIBRARIES:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a broken library may raise anything
            findings.append(Finding(name, "versions", "wrong", say_error(error), BROKEN, needed=True))
    return findings or [
        Finding("imports", "versions", "ok", f"{', '.join(JOB_LIBRARIES)} can be imported", needed=True)
    ]


def check_extras() -> list[Finding]:
    """Find what optional extras lack, and the command that adds each."""
    extras = importlib.metadata.metadata("thawline").get_all("Provides-Extra") or []
    findings = []
    for extra in (name for name in extras if name != "dev"):
        wanted = list_requirements(extra)
        lacking = [f"{name}{specifier}" for name, specifier, _, fits in wanted if not fits]
        if lacking:
            found, remedy = f"not installed: {', '.join(lacking)}", f"pip install 'thawline[{extra}]'"
            findings.append(Finding(extra, "extras", "missing", found, remedy))
        else:
            installed = ", ".join(f"{name} {version}" for name, _, version, _ in wanted)
            findings.append(Finding(extra, "extras", "ok", installed))
    return findings


def list_requirements(extra: str = "") -> list[tuple[str, str, str | None, bool]]:
    """List what Thawline, or one ``extra``, requires: name, versions wanted, version installed or None, whether it fits.

    Raises PackageNotFoundError where Thawline is not installed.
    """
    from packaging.requirements import Requirement

    found = []
    for each in map(Requirement, importlib.metadata.requires("thawline") or ()):
        always = each.marker is None or each.marker.evaluate({"extra": ""})
        if always if not extra else not always and each.marker is not None and each.marker.evaluate({"extra": extra}):
            version = find_version(each.name)
            fits = version is not None and each.specifier.contains(version, prereleases=True)
            found.append((each.name, str(each.specifier), version, fits))
    return found


def _list_pools() -> list[str]:
    """Name the libraries that compute in threads of their own, with their number."""
    from threadpoolctl import threadpool_info

    for name in ("torch", "sklearn"):  # each brings its own
        importlib.import_module(name)

    return sorted({f"{pool['internal_api']} {pool['num_threads']}" for pool in threadpool_info()})


def _hide_home(finding: Finding) -> Finding:
    """Write ~ for the user's own folder: what is printed here goes into letters and reports."""
    with contextlib.suppress(RuntimeError):  # no home
        home = re.compile(rf"(?<![\w./-]){re.escape(str(Path.home()))}(?![\w.-])")
        if len(Path.home().parts) > 1:
            found, remedy = (home.sub("~", text) for text in (finding.found, finding.remedy))
            return dataclasses.replace(finding, found=found, remedy=remedy)
    return finding


def _format_finding(finding: Finding, width: int) -> list[str]:
    """Return the lines of a finding; the remedy stays on one, so that it can be copied."""
    head = f"  {finding.name:<{width}}  {finding.status:<7}  "
    indent = " " * len(head)
    parts = textwrap.wrap(finding.found, LINE - len(head), break_long_words=False, break_on_hyphens=False) or [""]
    lines = [head + parts[0], *(indent + part for part in parts[1:])]
    return [*lines, f"{indent}to do: {finding.remedy}"] if finding.remedy else lines


CHECKS: tuple[Check, ...] = (
    Check("processor", check_processor),
    Check("memory", check_memory),
    Check("disk", check_cache, needed=True),
    Check("disk", check_temporary),
    Check("GPU", check_gpu),
    Check("engine", check_engine, needed=True),
    Check("decoders", check_decoders, needed=True),
    Check("decoders", check_slides),
    Check("DICOM", check_dicom),
    Check("weights", check_default_weights, needed=True),
    Check("weights", check_weights),
    Check("hub", check_hub, calls_out=True),
    Check("versions", check_versions),
    Check("versions", check_imports, needed=True),
    Check("extras", check_extras),
)
