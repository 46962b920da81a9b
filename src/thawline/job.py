"""The main job, top to bottom: read, inspect, split, plan, extract, try heads, judge, deliver, report."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import thawline
from thawline.audit.items import Inspection, inspect_items
from thawline.cost import peak_rss_mib, read_duration
from thawline.data.dataset import Dataset, load_dataset
from thawline.data.fingerprint import make_fingerprint
from thawline.data.scan import scan
from thawline.data.splits import Splits, keep_given_validation, make_groups, split_as_given, split_items
from thawline.errors import DataError, OptionError, OutputError
from thawline.files import json_digest, write_atomic, write_json
from thawline.folder import open_run
from thawline.journal import Journal
from thawline.judge.evaluation import evaluate
from thawline.judge.statistics import Selection, choose_within_one_se
from thawline.learn.engine import detect_hardware, name_engine, open_engine, smallest_cosine
from thawline.learn.features import Extraction, batch_inputs, extract, prepare_all
from thawline.learn.heads import fit_final
from thawline.learn.ladder import Development, Rung, choose_rung, climb, cross_fit
from thawline.learn.weights import Weights, find_weights
from thawline.ledger import digest_test, record_opening
from thawline.options import RunOptions, change_options, check_options
from thawline.plan import MEASURED_ITEMS, Plan, apply_given, make_plan, read_plan
from thawline.share.bundle import Model, load_model, save_model
from thawline.share.card import write_card
from thawline.share.examples import write_examples
from thawline.share.report import write_report
from thawline.share.results import describe_candidates, describe_ladder, format_predictions, format_splits
from thawline.types import BackboneFacts, Contract, Hardware, Listener, SilentListener

if TYPE_CHECKING:
    from thawline.types import Features, Groups, IntArray, Labels, Probabilities

LEAST_COSINE = 0.99  # a narrower precision is taken where every checked item agrees this well with f32
CHECKED_ITEMS = 64
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


@dataclasses.dataclass
class Job:
    """The state that the steps of one run share."""

    out: Path
    options: RunOptions
    listener: Listener
    journal: Journal
    hardware: Hardware
    weights: Weights
    inspection: Inspection
    labels: Labels
    groups: Groups
    splits: Splits
    fingerprint: dict[str, Any]
    plan: Plan
    facts: BackboneFacts
    began: float

    @property
    def dataset(self) -> Dataset:
        """The items that take part."""
        return self.inspection.dataset

    def development_items(self) -> IntArray:
        """Positions of the development items."""
        return np.flatnonzero(~self.splits.is_test)

    def development(self, chosen: IntArray | None = None) -> Development:
        """The development items, or those among them at the positions ``chosen``."""
        chosen = self.development_items() if chosen is None else chosen
        return Development(
            self.labels[chosen], self.groups[chosen], self.splits.folds[chosen], len(self.dataset.classes)
        )

    def extract(self, chosen: IntArray, contract: Contract, step: str) -> Extraction:
        """Extract the features of the items at the positions ``chosen``."""
        contents = [self.dataset.contents[index] for index in chosen]
        digests = [self.inspection.digests[index] for index in chosen]
        at = time.perf_counter()
        found = extract(contents, digests, self.weights, contract, self.hardware, self.listener, step)
        if found.n_computed:
            value = {"computed": found.n_computed, "cached": found.n_cached}
            self.journal.record(step, value, time.perf_counter() - at + self.journal.spent(step))
        return found


def run(
    data: Path | str,
    out: Path | str,
    options: RunOptions | None = None,
    *,
    plan: Path | None = None,
    resume: bool = True,
    listener: Listener | None = None,
    **changes: Any,
) -> RunResult:
    """Run the main job on ``data`` and write the run folder ``out``.

    ``changes`` are fields of `RunOptions`, such as ``seed=1``. A run that was killed goes on from its journal; a finished
    one is returned as it is. ``plan`` is an edited plan file.
    Raises InputError for what cannot be used and LeakError for a given split that leaks.
    """
    began = time.perf_counter()
    out, listener = Path(out), listener or SilentListener()
    options = check_options(change_options(options or RunOptions(), **changes))
    given = read_plan(plan) if plan else None
    dataset = load_dataset(Path(data), allow_outside=options.allow_outside)
    hardware = detect_hardware(options.device)
    weights = find_weights(options.backbone, options.weights)
    spec = make_spec(dataset, options, weights, hardware, given)
    journal = open_run(out, spec, resume=resume)
    at = time.perf_counter()
    job = prepare(dataset, options, listener, journal, hardware, weights, began)
    _check_unchanged(job)
    if "done" in journal:
        listener.warn(f"{out} holds this run already, finished; --no-resume starts it over")
        return read_result(out)
    _write_findings(job, dataset, time.perf_counter() - at)
    if given is not None:
        job.plan = apply_given(job.plan, given)
    _measure_precision(job)
    _measure_aspect(job)
    features = job.extract(job.development_items(), job.plan.contract(job.facts), "features").features
    rungs, selection = _climb(job, features)
    job.plan = _record_selection(job.plan, rungs, selection)
    write_json(out / "plan.json", {**job.plan.to_json(), "thawline": thawline.__version__})
    test = _deliver(job, rungs[selection.chosen], features)
    _judge(job, rungs, selection, test)
    write_report(out)
    journal.record("done", {}, time.perf_counter() - began)
    return dataclasses.replace(read_result(out), n_resumed=journal.n_resumed)


def plan_only(data: Path | str, options: RunOptions | None = None, *, listener: Listener | None = None) -> Plan:
    """Read the data and return the plan, with what is still to be measured left open; nothing is written but the cache."""
    options = check_options(options or RunOptions())
    dataset = load_dataset(Path(data), allow_outside=options.allow_outside)
    weights, hardware = find_weights(options.backbone, options.weights), detect_hardware(options.device)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        return prepare(dataset, options, listener or SilentListener(), journal, hardware, weights, 0.0).plan


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
    dataset: Dataset, options: RunOptions, weights: Weights, hardware: Hardware, given: Plan | None
) -> dict[str, Any]:
    """Say what is run on what: options, weights, a digest of paths and labels; the environment beside it."""
    rows = [[item.path, item.label, item.patient, item.split] for item in dataset.items]
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "schema": 1,
        "thawline": thawline.__version__,
        "seed": options.seed,
        "options": options.to_json(),
        "given_plan": given.digest() if given else None,
        "items": json_digest([rows, list(dataset.classes)]),
        "weights": weights.describe(),
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
    weights: Weights,
    began: float,
) -> Job:
    """Look at every item, split, and plan; nothing is written but the cache."""
    looks = scan(dataset.contents, hardware.cores, listener)
    inspection = inspect_items(dataset, looks, options, listener)
    kept = inspection.dataset
    labels = kept.labels()
    groups = make_groups([item.patient for item in kept.items], inspection.identical)
    splits = _split(kept, labels, groups, options)
    fingerprint = make_fingerprint(kept, inspection.facts, labels, groups, splits)
    facts = _describe_backbone(weights)
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
        began,
    )


def _write_findings(job: Job, everything: Dataset, seconds: float) -> None:
    """Write what was found of ``everything`` into the run folder: only once it is sure that the run goes on here."""
    write_json(job.out / "audit.json", job.inspection.record)
    write_json(job.out / "fingerprint.json", job.fingerprint)
    write_atomic(job.out / "splits.csv", format_splits(everything, job.inspection.numbers, job.splits))
    if "read" not in job.journal:
        job.journal.record("read", {"content": job.fingerprint["digest"]}, seconds)


def _split(dataset: Dataset, labels: Labels, groups: Groups, options: RunOptions) -> Splits:
    if not dataset.split_given:
        if options.validation == "given":
            raise OptionError(
                "--validation given: expected a split column with train, val and test; these data have none"
            )
        return split_items(labels, groups, options.seed, options.folds)
    if options.validation == "given":
        return keep_given_validation(dataset.items, labels)
    return split_as_given(dataset.items, labels, groups, options.seed, options.folds)


def _describe_backbone(weights: Weights) -> BackboneFacts:
    architecture = weights.architecture
    names = [field.name for field in dataclasses.fields(BackboneFacts)]
    own = {name: getattr(architecture if hasattr(architecture, name) else weights, name) for name in names}
    return BackboneFacts(**own)


def _check_unchanged(job: Job) -> None:
    """Refuse to go on with images that are not those the journal was made from. Raises DataError."""
    found, now = job.journal.find("read"), job.plan.fingerprint
    if found is not None and found["content"] != now:
        raise DataError(
            f"the images have changed since {job.out} was begun (content {found['content'][:12]} then, {now[:12]} now); "
            "start over with --no-resume or choose another --out"
        )


def _measure_precision(job: Job) -> None:
    """Settle an open precision: bf16 where the features of some of the run's own items agree with f32."""
    if job.plan["precision"] is not None:
        return

    def measure() -> dict[str, Any]:
        chosen = job.development_items()[:CHECKED_ITEMS]
        contents = [job.dataset.contents[index] for index in chosen]
        aspect = job.plan["aspect"] or "squash"
        features = {}
        for precision in ("f32", "bf16"):
            contract = dataclasses.replace(job.plan.contract(job.facts, aspect), precision=precision)
            engine = open_engine(job.weights, contract, job.hardware)
            inputs = prepare_all(contents, contract, job.hardware.cores)
            features[precision] = np.concatenate(list(engine.run(batch_inputs(inputs, engine.batch_items))))
        return {"cosine": smallest_cosine(features["bf16"], features["f32"]), "n_items": len(chosen)}

    found = job.journal.unit("precision", measure)
    agrees = found["cosine"] >= LEAST_COSINE
    reason = f"smallest cosine of bf16 with f32 features over {found['n_items']} items: {found['cosine']:.4f}"
    evidence = [{"candidate": "bf16", "smallest_cosine": found["cosine"], "least_wanted": LEAST_COSINE}]
    job.plan = job.plan.decide("precision", "bf16" if agrees else "f32", reason, evidence)


def _measure_aspect(job: Job) -> None:
    """Settle an open aspect rule: the linear head out of fold on each, compared as rungs are."""
    candidates = job.plan.find("aspect").candidates or ()
    if job.plan["aspect"] is not None:
        return
    chosen = _sample_patients(job)
    development = job.development(chosen)
    losses = []
    for aspect in candidates:
        features = job.extract(chosen, job.plan.contract(job.facts, aspect), f"features, {aspect}").features
        job.listener.begin(f"comparing {aspect}", job.splits.n_folds)
        probabilities, _ = cross_fit(
            f"aspect {aspect}", "linear", features, development, job.journal, job.listener, seed=job.options.seed
        )
        losses.append(development.losses(probabilities))
        job.listener.end(f"log-loss {losses[-1].mean():.4f}")
    selection = choose_within_one_se(np.stack(losses), development.groups[development.scored()])
    reason = (
        f"the first in this order whose out-of-fold log-loss, frozen features and linear head on {len(chosen)} development "
        f"items, is within one standard error of the best ({candidates[selection.best]})"
    )
    job.plan = job.plan.decide(
        "aspect", candidates[selection.chosen], reason, describe_candidates(candidates, selection)
    )


def _sample_patients(job: Job) -> IntArray:
    """Positions of all development items, or of whole patients drawn by the seed where those are many."""
    positions = job.development_items()
    if len(positions) <= MEASURED_ITEMS:
        return positions
    generator = np.random.Generator(np.random.PCG64(job.options.seed))
    groups = generator.permutation(np.unique(job.groups[positions]))
    order = np.argsort(groups)
    rank = order[np.searchsorted(groups, job.groups[positions], sorter=order)]
    allowed = np.searchsorted(np.cumsum(np.bincount(rank)), MEASURED_ITEMS, side="right")
    return positions[rank < max(int(allowed), 1)]


def _climb(job: Job, features: Features) -> tuple[list[Rung], Selection]:
    """Try the planned heads on all development items and choose one."""
    deadline = job.began + read_duration(job.options.budget)
    development = job.development()
    rungs = climb(
        [job.plan["head"]] if job.plan["head"] else job.plan["heads"],
        features,
        development,
        job.journal,
        job.listener,
        seed=job.options.seed,
        class_weight=job.plan["class_weight"],
        may_go_on=lambda: time.perf_counter() < deadline,
    )
    return rungs, choose_rung(rungs, development)


def _record_selection(plan: Plan, rungs: Sequence[Rung], selection: Selection) -> Plan:
    if plan["head"] is not None:
        return plan
    heads = [rung.head for rung in rungs]
    stopped = (
        ""
        if len(heads) == len(plan["heads"])
        else f"; the budget ended after {len(heads)} of {len(plan['heads'])} rungs"
    )
    reason = (
        f"the first whose paired log-loss is within one standard error of the best, {heads[selection.best]}{stopped}"
    )
    return plan.decide("head", heads[selection.chosen], reason, describe_candidates(heads, selection))


def _deliver(job: Job, rung: Rung, features: Features) -> Probabilities | None:
    """Refit the chosen head on all development patients, save the model, and open the test part once."""
    development = job.development()
    job.listener.begin("final model")
    at = time.perf_counter()
    head, strength = fit_final(
        rung.head,
        features,
        development.labels,
        development.groups,
        development.n_classes,
        folds=development.folds,
        seed=job.options.seed,
        class_weight="balanced" if job.plan["class_weight"] == "balanced" else None,
        n_jobs=job.hardware.cores,
    )
    model = save_model(
        job.out / "model",
        weights=job.weights,
        contract=job.plan.contract(job.facts),
        head=head,
        hardware=job.hardware,
        task=_describe_task(job),
    )
    if "final" not in job.journal:
        job.journal.record("final", {"strength": float(strength)}, time.perf_counter() - at)
    job.listener.end(f"{rung.head}, strength {strength:g}")
    return None if job.options.hold_test else _open_test(job, model)


def _open_test(job: Job, model: Model) -> Probabilities:
    """Predict the test part with the finished model, once; the ledger counts it."""
    found = job.journal.find("test")
    if found is not None:
        return np.asarray(found["probabilities"], np.float64)
    positions = np.flatnonzero(job.splits.is_test)
    digest = digest_test(job.inspection.facts[index].pixel_digest for index in positions)
    try:
        openings = record_opening(digest, job.plan.digest())
    except OSError as error:
        openings = None
        job.listener.warn(
            f"the ledger of test openings cannot be written: {error}; set THAWLINE_DATA to a writable folder"
        )
    features = job.extract(positions, model.contract, "features, test").features
    at = time.perf_counter()
    probabilities = model.head.predict_proba(features)
    job.journal.record("test", {"probabilities": probabilities, "openings": openings}, time.perf_counter() - at)
    return probabilities


def _judge(job: Job, rungs: Sequence[Rung], selection: Selection, test: Probabilities | None) -> None:
    """Write predictions, metrics, examples, audit and model card: everything but the page."""
    job.listener.begin("judging")
    chosen = rungs[selection.chosen]
    task, development = _describe_task(job), job.development()
    about = (job.dataset.classes, task["positive"], task["threshold"])
    scored, is_test = development.scored(), job.splits.is_test
    sections = [
        evaluate(
            development.labels[scored],
            rung.probabilities[scored],
            development.groups[scored],
            *about,
            folds=development.folds[scored],
            seed=job.options.seed,
        )
        for rung in rungs
    ]
    ladder = describe_ladder(rungs, sections, describe_candidates([rung.head for rung in rungs], selection), chosen)
    metrics = {
        "schema": 1,
        "task": task,
        "chosen": {
            "backbone": job.facts.name,
            "strategy": chosen.strategy,
            "thaw_line": None,
            "thawed_fraction": 0.0,
            "head": chosen.head,
        },
        "test": None
        if test is None
        else evaluate(job.labels[is_test], test, job.groups[is_test], *about, seed=job.options.seed),
        "validation": sections[selection.chosen],
        "ladder": ladder,
    }
    probabilities = np.full((len(job.labels), len(job.dataset.classes)), np.nan)
    probabilities[~is_test] = chosen.probabilities
    if test is not None:
        probabilities[is_test] = test
    shown = np.flatnonzero(job.splits.folds >= 0 if test is None else is_test)
    write_atomic(job.out / "predictions.csv", format_predictions(job.dataset, job.splits, probabilities))
    write_examples(job.out, job.dataset.contents, job.inspection.numbers, shown, job.labels, probabilities, about)
    openings = (job.journal.find("test") or {}).get("openings")
    write_json(job.out / "audit.json", {**job.inspection.record, "test_openings": openings})
    write_atomic(job.out / "model" / "card.md", write_card(metrics, job.plan, job.weights))
    job.listener.end()
    write_json(job.out / "metrics.json", {**metrics, "cost": _sum_costs(job)})


def _describe_task(job: Job) -> dict[str, Any]:
    names = {"kind": "task", "positive": "positive", "threshold": "threshold"}
    return {**{key: job.plan[name] for key, name in names.items()}, "classes": list(job.dataset.classes)}


def _sum_costs(job: Job) -> dict[str, Any]:
    """Seconds by step over all sittings of the run, and the peak memory of this one."""
    steps = {"heads": "rung", "choices": "aspect"}  # units are named otherwise
    steps = {name: steps.get(name, name) for name in ("read", "features", "heads", "choices", "final", "test")}
    seconds = {name: round(job.journal.seconds(prefix), 3) for name, prefix in steps.items()}
    return {
        "seconds": {**seconds, "training": 0.0, "total": round(sum(seconds.values()), 3)},
        "peak_rss_mib": peak_rss_mib(),
        "energy_wh": None,
    }
