"""The main job, top to bottom: read, inspect, split, plan, extract, try heads, judge, deliver, report."""

from __future__ import annotations

import dataclasses
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import thawline
from thawline.audit.findings import SHORTCUT
from thawline.audit.items import Inspection, inspect_items
from thawline.audit.pretraining import check_weights
from thawline.audit.step import audit_copies, audit_shortcuts
from thawline.choosing import choose, describe_weights
from thawline.data.dataset import Dataset, load_dataset, order_classes
from thawline.data.fingerprint import make_fingerprint
from thawline.data.readers import is_slide
from thawline.data.readings import COLUMN, list_readings
from thawline.data.scan import scan
from thawline.data.schemes import check_schemes, split_by_columns
from thawline.data.splits import Splits, keep_given_validation, make_groups, split_as_given, split_items
from thawline.data.strata import check_strata
from thawline.delivery import deliver, open_test
from thawline.errors import DataError, OptionError, OutputError, bullets
from thawline.files import json_digest, write_atomic, write_json
from thawline.findings import find_version
from thawline.folder import open_run
from thawline.growth import measure_growth
from thawline.inference import measure_inference
from thawline.journal import Journal
from thawline.judging import judge
from thawline.learn.engine import detect_hardware, name_engine
from thawline.learn.networks import OwnNetwork, sum_channels
from thawline.learn.weight_files import Weights
from thawline.learn.weights import find_weights, keep_network
from thawline.nesting import check_parts, cross_validate, settle_nesting
from thawline.options import (
    RunOptions,
    change_options,
    check_options,
    check_task,
    list_backbones,
    list_grades,
    make_reading,
)
from thawline.plan import Plan, make_plan, read_plan
from thawline.share.bundle import Model, load_model
from thawline.share.card import restate_card
from thawline.share.report import write_report
from thawline.share.results import format_splits
from thawline.share.study import check_study, keep_study
from thawline.share.words import count_things
from thawline.state import Job
from thawline.types import Hardware, Listener, SilentListener

if TYPE_CHECKING:
    from thawline.types import Groups, Labels

NEAR, SHORTCUTS = "audit near-duplicates", "audit shortcuts"  # units of the journal
PACKAGES = ("numpy", "scikit-learn", "torch", "torchvision", "timm", "openvino", "Pillow")


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a finished run hands back: its folder, its numbers, its plan, and the model on request."""

    folder: Path
    metrics: dict[str, Any]
    plan: dict[str, Any]
    n_resumed: int = 0

    @property
    def report(self) -> Path:
        """Path of the report."""
        return self.folder / "report.html"

    def load_model(self) -> Model:
        """Load the model that the run delivered."""
        return load_model(self.folder)


def run(
    data: Path | str,
    out: Path | str,
    options: RunOptions | None = None,
    *,
    plan: Path | None = None,
    study: Path | None = None,
    network: OwnNetwork | None = None,
    resume: bool = True,
    listener: Listener | None = None,
    **changes: Any,
) -> RunResult:
    """Run the main job on ``data`` and write the run folder ``out``.

    ``network`` is a backbone of the user's own, in place of one by name. ``changes`` are fields of `RunOptions`, such as
    ``seed=1``. A run that was killed goes on from its journal; a finished one is returned as it is. ``plan`` is an edited
    plan file. ``study`` is a study file (`share.study`), without one that beside the data: it changes the report alone.
    Raises InputError for what cannot be used and LeakError for a given split that leaks.
    """
    began = time.perf_counter()
    out, listener = Path(out), listener or SilentListener()
    options = check_options(change_options(options or RunOptions(), **changes))
    if network is not None:
        options = _name_own(options, network)
    given = read_plan(plan) if plan else None
    study = check_study(study, Path(data))
    dataset = _load(data, options)
    hardware = _find_hardware(options)
    candidates = _find_candidates(options, given, network)
    options = settle_tiles(dataset, options, candidates[0])
    spec = make_spec(dataset, options, candidates, hardware, given)
    journal = open_run(out, spec, resume=resume)
    hardware = _recall_room(journal, hardware)
    at = time.perf_counter()
    job = prepare(dataset, options, listener, journal, hardware, candidates, began)
    _check_unchanged(job)
    if "done" in journal:
        listener.warn(f"{out} holds this run already, finished; --no-resume starts it over")
        _state_anew(out, study)
        return read_result(out)
    _check_plan(job)
    _keep_findings(job, time.perf_counter() - at)
    check_parts(job)
    keep_study(out, study)
    _audit_shortcuts(job)
    _write_findings(job)
    chosen = choose(job, candidates, given)
    model = deliver(job, chosen.rung, chosen.strategies, chosen.safeguards)
    settle_nesting(job, given)
    write_json(out / "plan.json", {**job.plan.to_json(), "thawline": thawline.__version__})
    test = open_test(job, model)
    measure_inference(job, model)
    nested = cross_validate(job, candidates, given, chosen, test)
    judge(job, chosen, test, nested, measure_growth(job, chosen.features, chosen.rung))
    write_report(out)
    journal.record("done", {}, 0.0)
    journal.discard("weights")
    return dataclasses.replace(read_result(out), n_resumed=journal.n_resumed)


def _load(data: Path | str, options: RunOptions) -> Dataset:
    """Load the data, their classes in the order of the grades where these are named.

    Raises DataError, and OptionError for what these data do not allow: now, not after hours.
    """
    dataset = load_dataset(
        Path(data),
        labels=options.labels,
        keys=options.keys,
        allow_outside=options.allow_outside,
        multilabel=options.multilabel,
    )
    check_task(options, dataset.classes, multilabel=dataset.multilabel)
    check_strata(dataset.items, options.subgroups)
    check_schemes(dataset.items, options.test, options.validation, split_given=dataset.split_given)
    list_readings(dataset.items)
    grades = list_grades(options)
    return order_classes(dataset, grades) if grades else dataset


def _find_candidates(options: RunOptions, given: Plan | None, network: OwnNetwork | None = None) -> list[Weights]:
    """Find the backbones that the options name, each once. Raises OptionError for several beside a plan file."""
    names = list_backbones(options)
    if options.dimensions == "3d_native" and not (network and network.n_slices):
        raise OptionError(
            "--dimensions 3d_native: belongs to a thawline.OwnNetwork with n_slices, given to thawline.run"
        )
    if given is not None and len(names) > 1:
        raise OptionError(
            f"--plan: expected one --backbone, found {', '.join(names)}: lines and size in a plan file are those of one; "
            "race first, then edit the plan of the winner"
        )
    found = [keep_network(network)] if network else [find_weights(name, options.weights) for name in names]
    if options.grey == "sum":
        found = [dataclasses.replace(each, architecture=sum_channels(each.architecture)) for each in found]
    return list({each.architecture.name: each for each in found}.values())


def _name_own(options: RunOptions, network: OwnNetwork) -> RunOptions:
    """Let the options name a network of the user's own. Raises OptionError beside another backbone, or for none."""
    if not isinstance(network, OwnNetwork):
        raise OptionError(f"network: expected a thawline.OwnNetwork, found {type(network).__name__}; wrap it in one")
    network.check()
    if options.backbone != RunOptions().backbone or options.weights is not None:
        raise OptionError("network: expected neither --backbone nor --weights beside it, found both; leave them out")
    shown: dict[str, Any] = (
        {"dimensions": "3d_native", "slices": f"spread:{network.n_slices}"} if network.n_slices else {}
    )
    return check_options(dataclasses.replace(options, backbone=network.describe().name, **shown))


def settle_tiles(dataset: Dataset, options: RunOptions, weights: Weights) -> RunOptions:
    """Return the options with the side of tiles filled in where items are whole slides: that of the network's input.

    Raises DataError where only some are slides, and OptionError for options that belong to others.
    """
    slides = [is_slide(content) for content in dataset.contents]
    if not any(slides):
        if options.tile_px is not None or options.mpp != RunOptions().mpp:
            raise OptionError("--tile-px and --mpp: belong to whole slides, and these data have none; leave them out")
        return options
    others = [item.path for item, each in zip(dataset.items, slides, strict=True) if not each]
    if others:
        raise DataError(
            f"{sum(slides)} items are whole slides and {len(others)} are not: expected one kind, since a network sees tiles "
            f"of the one and the whole of the other; take them apart:\n{bullets(others)}"
        )
    tile_px = options.tile_px or options.size_px or weights.architecture.size_px
    return check_options(dataclasses.replace(options, tile_px=tile_px))


def _find_hardware(options: RunOptions) -> Hardware:
    """Detect the hardware; where the options ask for float32 it counts as without bf16, in training as well."""
    hardware = detect_hardware(options.device)
    return dataclasses.replace(hardware, bf16=hardware.bf16 and options.precision != "f32")


def _recall_room(journal: Journal, hardware: Hardware) -> Hardware:
    """Return the hardware with the room in the cache that a resumed run began with, by which its views were planned."""
    room = journal.find("room")
    return hardware if room is None else dataclasses.replace(hardware, cache_mib=room["cache_mib"])


def plan_only(data: Path | str, options: RunOptions | None = None, *, listener: Listener | None = None) -> Plan:
    """Read the data and return the plan, with what is still to be measured left open; nothing is written but the cache."""
    options = check_options(options or RunOptions())
    dataset = _load(data, options)
    candidates = _find_candidates(options, None)[:1]
    options = settle_tiles(dataset, options, candidates[0])
    hardware = _find_hardware(options)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        return prepare(dataset, options, listener or SilentListener(), journal, hardware, candidates, 0.0).plan


def read_result(out: Path) -> RunResult:
    """Read back a finished run. Raises OutputError where it is not finished."""
    try:
        metrics = json.loads((out / "metrics.json").read_text("utf-8"))
        return RunResult(out, metrics, json.loads((out / "plan.json").read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{out}: expected a finished run, found {error}; run it again with the same command"
        ) from error


def make_spec(
    dataset: Dataset, options: RunOptions, candidates: Sequence[Weights], hardware: Hardware, given: Plan | None
) -> dict[str, Any]:
    """Say what is run on what: options, weights, a digest of paths and labels; the environment beside it."""
    rows = [
        [item.path, item.label, item.patient, item.split, *([item.lesion] if item.lesion else [])]
        for item in dataset.items
    ]
    versions = {name: found for name in PACKAGES if (found := find_version(name))}
    return {
        "schema": 1,
        "thawline": thawline.__version__,
        "seed": options.seed,
        "options": options.to_json(),
        "given_plan": given.digest() if given else None,
        "items": json_digest([rows, list(dataset.classes)]),
        "architectures": [each.architecture.to_json() for each in candidates],
        "weights": candidates[0].describe()
        if len(candidates) == 1
        else {each.architecture.name: each.describe() for each in candidates},
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": platform.machine(),
            "cores": hardware.cores,
            "engine": name_engine(hardware),
            "gpu": hardware.cuda,
            "packages": versions,
        },
    }


def prepare(
    dataset: Dataset,
    options: RunOptions,
    listener: Listener,
    journal: Journal,
    hardware: Hardware,
    candidates: Sequence[Weights],
    began: float,
) -> Job:
    """Look at every item, split, and plan for the first of the backbones; nothing is written but the cache."""
    looks = scan(dataset.contents, hardware.cores, listener, make_reading(options))
    inspection = inspect_items(dataset, looks, options, listener)
    _check_channels(inspection, options)
    _warn_of_weights(inspection, candidates, options, listener)
    _warn_of_readers(inspection, listener)
    weights = candidates[0]
    kept = inspection.dataset
    labels = kept.labels()
    near = _audit_copies(inspection, options, journal, hardware, listener)
    together = near["together"]
    groups = make_groups([item.patient for item in kept.items], [*inspection.identical, *together])
    splits = _split(kept, labels, groups, options)
    n_together = len({item for pair in together for item in pair})
    fingerprint = make_fingerprint(kept, inspection.facts, labels, groups, splits, n_together)
    facts = describe_weights(weights, options, fingerprint)
    plan = make_plan(fingerprint, hardware, facts, options)
    return Job(
        journal.run,
        options,
        listener,
        journal,
        hardware,
        weights,
        inspection,
        labels,
        groups,
        splits,
        fingerprint,
        plan,
        facts,
        near,
        began,
    )


def _audit_copies(
    inspection: Inspection, options: RunOptions, journal: Journal, hardware: Hardware, listener: Listener
) -> dict[str, Any]:
    """Find near-duplicates, keep for the report what they mean, and return what is found and what must stay together."""
    if options.audit == "none":
        return {"findings": [], "together": []}
    found = audit_copies(inspection, make_reading(options), journal.find(NEAR), hardware.cores, listener)
    inspection.record["findings"] += found["findings"]
    inspection.record["tables"] = found["tables"]
    for finding in found["findings"]:
        if finding["severity"] != "note":
            groups = count_things(len(finding["groups"]), "group")
            listener.warn(f"{finding['name']}, {groups}: {finding['text']}; thawline audit shows them")
    return found


def _audit_shortcuts(job: Job) -> None:
    """Find what predicts labels of development items that must not, and keep it for the report."""
    if job.options.audit != "full":
        return
    about = job.development_items(), job.labels, job.groups, make_reading(job.options), job.options.seed
    found = job.journal.unit(
        SHORTCUTS, lambda: audit_shortcuts(job.inspection, *about, job.hardware.cores, job.listener)
    )
    job.inspection.record["findings"] += found["findings"]
    job.inspection.record["shortcuts"] = found["shortcuts"]
    severe = [each for each in found["findings"] if each["severity"] != "note"]
    if severe:
        sources = ", ".join(each["name"].removeprefix(SHORTCUT) for each in severe)
        job.listener.warn(
            f"labels are predicted from what may not be the disease: {sources}; the report shows how well"
        )


def _check_channels(inspection: Inspection, options: RunOptions) -> None:
    """Refuse colour images, of the test part as well, where the network is to see one channel. Raises OptionError."""
    colour = sum(facts.channels > 2 for facts in inspection.facts)
    if options.grey == "sum" and colour:
        raise OptionError(f"--grey sum: expected grey images only, found {colour} in colour; leave it out")


def _warn_of_weights(
    inspection: Inspection, candidates: Sequence[Weights], options: RunOptions, listener: Listener
) -> None:
    """Say what the licence of each backbone and the data it was trained on ask for, and keep it for the report."""
    for weights in candidates:
        for remark in check_weights(inspection.dataset, weights, options.modality):
            inspection.record["warnings"].append(remark)
            listener.warn(remark["text"])


def _warn_of_readers(inspection: Inspection, listener: Listener) -> None:
    """Say where what readers said is left aside, and keep it for the report."""
    dataset = inspection.dataset
    n_readers = len(list_readings(dataset.items))
    if not n_readers or (len(dataset.classes) == 2 and not dataset.multilabel):
        return
    text = (
        f"{count_things(n_readers, 'column')} {COLUMN}NAME left aside: readers are held beside the model where there are "
        "two classes."
    )
    inspection.record["warnings"].append({"level": "caution", "text": text})
    listener.warn(text)


def _keep_findings(job: Job, seconds: float) -> None:
    """Record what was found and planned: only once it is sure that the run goes on here."""
    for unit, value, taken in (
        ("read", {"content": job.fingerprint["digest"]}, seconds),
        (NEAR, job.near, 0.0),
        ("room", {"cache_mib": job.hardware.cache_mib}, 0.0),
        ("plan", job.plan.values(), 0.0),
    ):
        if unit not in job.journal:
            job.journal.record(unit, value, taken)


def _write_findings(job: Job) -> None:
    """Write what was found of all items into the run folder."""
    found = job.inspection
    write_json(job.out / "audit.json", found.record)
    write_json(job.out / "fingerprint.json", job.fingerprint)
    digests = [facts.pixel_digest for facts in found.facts]
    write_atomic(job.out / "splits.csv", format_splits(found.everything, found.numbers, job.splits, digests))


def _split(dataset: Dataset, labels: Labels, groups: Groups, options: RunOptions) -> Splits:
    """Choose the test part and the folds, as `_load` has checked that they can be. Raises DataError."""
    sites = options.validation if options.validation not in ("folds", "given") else None
    if options.test is not None or sites:
        about = dataset.items, labels, groups, options.seed, options.folds
        return split_by_columns(*about, test=options.test, sites=sites, split_given=dataset.split_given)
    if not dataset.split_given:
        return split_items(labels, groups, options.seed, options.folds)
    if options.validation == "given":
        return keep_given_validation(dataset.items, labels)
    return split_as_given(dataset.items, labels, groups, options.seed, options.folds)


def _check_unchanged(job: Job) -> None:
    """Refuse to go on with images that are not those the journal was made from. Raises DataError."""
    found, now = job.journal.find("read"), job.plan.fingerprint
    if found is not None and found["content"] != now:
        raise DataError(
            f"the images have changed since {job.out} was begun (content {found['content'][:12]} then, {now[:12]} now); "
            "start over with --no-resume or choose another --out"
        )


def _check_plan(job: Job) -> None:
    """Refuse to go on with another plan than the run was begun with. Raises DataError."""
    then, values = job.journal.find("plan") or {}, job.plan.values()
    changed = [name for name, value in then.items() if values.get(name) != value]
    if changed:
        raise DataError(
            f"this machine or version of Thawline plans otherwise than {job.out} was begun with ({', '.join(changed)}), and "
            "folds of two plans cannot be compared; go on where it was begun, start over with --no-resume or choose another "
            "--out"
        )


def _state_anew(out: Path, study: Path | None) -> None:
    """Let the report of a finished run say what a study file states."""
    if study is not None:
        keep_study(out, study)
        restate_card(out)
        write_report(out)
