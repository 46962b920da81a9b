"""The plan: everything that is decided before training, each choice with its reason.

A choice is *fixed* (the same for everyone), by *rule* (it follows from fingerprint, hardware or options), *empirical*
(measured on development folds; its value is None until then) or *given* (by the user, in an option or an edited plan).
`make_plan` is pure: the same facts give the same plan.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thawline.data.slice_forms import count_shown, read_form
from thawline.errors import OptionError
from thawline.files import json_digest
from thawline.judge.statistics import forecast_interval
from thawline.options import (
    ALL_HEADS,
    CALIBRATORS,
    LEAST_PX,
    MOST_PX,
    MOST_REPEATS,
    RunOptions,
    check_task,
    list_backbones,
    list_heads,
    make_reading,
    settle_slices,
)
from thawline.plan_judging import NESTED, choose_judging, choose_nesting
from thawline.plan_thawing import check_recipe, choose_thawing, name_controls, name_strategy
from thawline.types import (
    ASPECTS,
    BAG,
    MULTILABEL,
    NATIVE,
    PLANES,
    VOLUMES,
    BackboneFacts,
    Choice,
    Contract,
    Depth,
    Hardware,
    Kind,
    Reading,
)

NEGATIVE_NAMES = ("no", "normal", "negative", "benign", "control", "healthy", "no_findings", "no_finding", "0")
ISOTROPIC = ", isotropic"
MEASURED_ITEMS = 1500  # cheap choices are measured on at most this many development items
LARGER, STEP_PX = 9 / 7, 32  # 288 for 224; most networks halve the size five times
SLOW_HEADS = ("svm", "gradient_boosting")
SLOW_HEADS_ITEMS = 20_000
EDITABLE = (
    "aspect",
    "cached_lines",
    "calibration",
    "class_weight",
    "heads",
    "interpolation",
    "lines",
    "nested",
    "precision",
    "recipe",
    "rung",
    "size_px",
    "threshold",
    "tta",
    "useful_gain",
    "wide_range",
)


BESIDE = ("nested", "headline")  # that change neither the model nor what its test part says


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """All choices of a run in their order; ``plan["aspect"]`` is the value of one."""

    choices: tuple[Choice, ...]
    fingerprint: str = ""

    def __getitem__(self, name: str) -> Any:
        return self.find(name).value

    def __str__(self) -> str:
        width = max(len(choice.name) for choice in self.choices)
        return "\n".join(_format_choice(choice, width) for choice in self.choices)

    def find(self, name: str) -> Choice:
        """Return a choice by name; raises KeyError."""
        for choice in self.choices:
            if choice.name == name:
                return choice
        raise KeyError(name)

    def decide(self, name: str, value: Any, reason: str, evidence: Sequence[Mapping[str, Any]] = ()) -> Plan:
        """Return the plan with an open choice settled by what was measured."""
        settled = dataclasses.replace(
            self.find(name), value=value, reason=reason, evidence=tuple(map(dict, evidence)) or None
        )
        return dataclasses.replace(
            self, choices=tuple(settled if choice.name == name else choice for choice in self.choices)
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, as `plan.json` holds it, with the digest of the choices' values."""
        return {
            "schema": 1,
            "digest": self.digest(),
            "fingerprint": self.fingerprint,
            "choices": [dataclasses.asdict(choice) for choice in self.choices],
        }

    def digest(self) -> str:
        """Digest of what was decided about which data; wording and evidence do not count, nor what judges beside."""
        values = {name: value for name, value in self.values().items() if name not in BESIDE}
        return json_digest({"fingerprint": self.fingerprint, **values})

    def values(self) -> dict[str, Any]:
        """What was decided, as plain JSON data by name; None where it is still to be measured."""
        found: dict[str, Any] = json.loads(json.dumps({choice.name: choice.value for choice in self.choices}))
        return found

    def contract(self, facts: BackboneFacts, **measured: Any) -> Contract:
        """Return the input contract that the plan states, with ``measured`` fields in place of its own.

        What it leaves open is that of the simplest candidate: the backbone's own size, squashed, f32.
        """
        stated = {
            "size_px": self["size_px"] or facts.native_px,
            "mean": facts.mean,
            "std": facts.std,
            "interpolation": self["interpolation"],
            "aspect": self["aspect"] or ASPECTS[0],
            "wide_range": self["wide_range"],
            "precision": self["precision"] or "f32",
            "grey": self["channels"] == "sum",
            "reading": self._make_reading(),
        }
        return Contract.from_json({**stated, **measured})

    def _make_reading(self) -> Reading:
        """Return how DICOM images and volumes are read."""
        reading = Reading(
            () if self["window"] == "file" else tuple(self["window"].split(",")),
            self["frame"],
            self["plane"].partition(",")[0],
            self["plane"].endswith(ISOTROPIC),
            self["dimensions"],
        )
        if "tile_px" in self.values():
            reading = dataclasses.replace(reading, mpp=self["mpp"], tile_px=self["tile_px"])
        if reading.dimensions == BAG:
            reading = dataclasses.replace(reading, pooling=self["pooling"])
        if reading.dimensions == BAG or reading.dimensions in VOLUMES:
            reading = dataclasses.replace(reading, slices=self["slices"], n_slices=self["n_slices"])
        return reading


def make_plan(fingerprint: Mapping[str, Any], hardware: Hardware, facts: BackboneFacts, options: RunOptions) -> Plan:
    """Decide what can be decided before anything is measured. Raises OptionError for what these classes do not allow."""
    check_task(options, list(fingerprint["classes"]), multilabel="multilabel" in fingerprint)
    heads, nesting = _choose_heads(fingerprint, options), choose_nesting(fingerprint, options)
    thawing = choose_thawing(fingerprint, hardware, facts, options)
    choices = (
        _choose_task(fingerprint, options),
        _choose_positive(fingerprint, options),
        _choose_split(fingerprint, options),
        nesting,
        _choose_headline(fingerprint, options, nesting.value),
        Choice("seed", options.seed, "given" if options.seed else "fixed", "of splits, heads and intervals"),
        _choose_backbone(facts, options),
        _choose_size(fingerprint, facts, options),
        Choice("interpolation", facts.interpolation, "fixed", f"as {facts.name} was trained"),
        _choose_aspect(fingerprint, options),
        _choose_channels(options),
        *_choose_reading(fingerprint, options),
        _choose_wide_range(fingerprint),
        _choose_engine(hardware),
        _choose_precision(hardware, options),
        _choose_class_weight(fingerprint, options),
        heads,
        *thawing,
        _choose_rung(_list_rung_names(heads.value, thawing, facts)),
        Choice(
            "budget",
            options.budget,
            "fixed" if options.budget == RunOptions().budget else "given",
            "time to spend on choosing; the first rung is always finished",
        ),
        *choose_judging(fingerprint, options),
        _choose_final(options),
    )
    return Plan(choices, str(fingerprint["digest"]))


def read_plan(path: Path) -> Plan:
    """Read a plan file. Raises OptionError."""
    try:
        data = json.loads(path.read_text("utf-8"))
        choices = tuple(Choice(**{**entry, **_as_tuples(entry)}) for entry in data["choices"])
        return Plan(choices, str(data["fingerprint"]))
    except OSError as error:
        raise OptionError(f"--plan: cannot read {path}: {error.strerror}; make one with --plan-only --json") from error
    except (ValueError, KeyError, TypeError) as error:
        raise OptionError(f"--plan: {path} is not a plan as --plan-only --json prints it: {error!r}") from error


def apply_given(plan: Plan, given: Plan) -> Plan:
    """Take over the values that an edited plan sets. Raises OptionError for what a plan file cannot change."""
    unknown = [choice.name for choice in given.choices if choice.name not in {own.name for own in plan.choices}]
    if unknown:
        raise OptionError(
            f"--plan: unknown choices {', '.join(unknown)}; known: {', '.join(c.name for c in plan.choices)}"
        )
    before = plan
    for choice in given.choices:
        own = plan.find(choice.name)
        follows = choice.name == "headline" and NESTED in (choice.value, *(own.candidates or ()), own.value)
        follows |= choice.name == "nested" and own.kind == "given"  # by --nested
        if choice.value is None or choice.value == own.value or follows:
            continue
        if choice.name not in EDITABLE:
            raise OptionError(
                f"--plan: {choice.name} is {choice.value!r} in the file and {own.value!r} for these data and options; it "
                f"can be changed by an option or by the data only. A plan file may change {', '.join(EDITABLE)}"
            )
        if choice.name != "rung":  # checked once heads and lines are known
            _check_value(choice.name, choice.value, own)
        new = dataclasses.replace(
            own, value=choice.value, kind="given", reason=f"given in the plan file (was {own.value!r})"
        )
        plan = _replace(plan, new)
    return _follow_edits(plan, before)


def check_balance(plan: Plan) -> None:
    """Refuse to draw items of several labels so that all come alike often. Raises OptionError."""
    if plan["task"] == MULTILABEL and plan["recipe"]["balance"] == "sampling":
        raise OptionError(
            "--plan: recipe: expected balance none or weights for several labels an item, found 'sampling': no way of "
            "drawing items lets all of their labels come alike often"
        )


def _follow_edits(plan: Plan, before: Plan) -> Plan:
    """Let rungs and cached lines be those of edited heads and lines. Raises OptionError for edits that contradict."""
    if plan["task"] != MULTILABEL and plan["positive"] is None and plan["threshold"] != before["threshold"]:
        raise OptionError(
            f"--plan: threshold: expected {before['threshold']}, found {plan['threshold']}: of several classes the most "
            "probable one is called"
        )
    cached = plan.find("cached_lines")
    plan = _replace(plan, dataclasses.replace(cached, value=[line for line in cached.value if line in plan["lines"]]))
    rungs = before.find("rung").candidates or (before["rung"],)
    lines = [name for name in rungs if name.partition(" ")[2] in plan["lines"]]
    names = [*plan["heads"], *lines] or name_controls(plan["controls"], plan["handcrafted_heads"])
    if not names:
        raise OptionError("--plan: heads and lines leave nothing to try; keep one of them at least")
    if plan.find("rung") == before.find("rung"):
        changed = (plan["heads"], plan["lines"]) != (before["heads"], before["lines"])
        return _replace(plan, _choose_rung(names)) if changed else plan
    if plan["rung"] not in names:
        raise OptionError(
            f"--plan: rung: expected one of {', '.join(names)}, as heads and lines say; found {plan['rung']!r}"
        )
    return plan


def follow_size(
    plan: Plan, fingerprint: Mapping[str, Any], hardware: Hardware, facts: BackboneFacts, options: RunOptions
) -> Plan:
    """Return the plan with the views and cached lines that there is room for at the size that ``facts`` is of."""
    planned = {choice.name: choice for choice in choose_thawing(fingerprint, hardware, facts, options)}
    before, room = plan.find("cached_lines"), planned["cached_lines"]
    cached, keep = (before, before.value) if before.kind == "given" else (room, plan["lines"])
    cached = dataclasses.replace(cached, value=[line for line in room.value if line in keep])
    return _replace(_replace(plan, planned["views"]), cached)


def _replace(plan: Plan, choice: Choice) -> Plan:
    return dataclasses.replace(plan, choices=tuple(choice if c.name == choice.name else c for c in plan.choices))


def _check_value(name: str, value: Any, own: Choice) -> None:
    """Check one edited value against its range. Raises OptionError."""
    heads, planned = list(ALL_HEADS), own.value if isinstance(own.value, list) else []
    in_order = isinstance(value, list) and value == [each for each in planned if each in value]
    ranges: dict[str, tuple[bool, str]] = {
        "aspect": (value in ASPECTS, ", ".join(ASPECTS)),
        "cached_lines": (in_order, f"some of {own.value}, in their order"),
        "calibration": (value in CALIBRATORS, ", ".join(CALIBRATORS)),
        "class_weight": (value in ("none", "balanced"), "none or balanced"),
        "heads": (
            isinstance(value, list | tuple)
            and bool(value)
            and all(head in heads and value.count(head) == 1 for head in value),
            f"some of {heads}, each once",
        ),
        "lines": (in_order, f"some of {own.value}, in their order"),
        "recipe": (
            check_recipe(value),
            f"the fields of the planned one, each a number or word of its kind: {own.value}",
        ),
        "tta": (isinstance(value, bool), "true or false"),
        "useful_gain": (_is_number(value) and 0 <= value < 1, "a number from 0, below 1"),
        "interpolation": (value in ("bilinear", "bicubic"), "bilinear or bicubic"),
        "nested": (
            isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_REPEATS,
            f"how many repeats, up to {MOST_REPEATS}, or 0",
        ),
        "precision": (value in ("f32", "bf16"), "f32 or bf16"),
        "size_px": (
            isinstance(value, int) and LEAST_PX <= value <= MOST_PX,
            f"a whole number from {LEAST_PX} to {MOST_PX}",
        ),
        "threshold": (isinstance(value, float) and 0 < value < 1, "a number between 0 and 1"),
        "wide_range": (_is_range(value), "two numbers, black below white"),
    }
    fits, expected = ranges[name]
    if not fits:
        raise OptionError(f"--plan: {name}: expected {expected}; found {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_range(value: Any) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2
    return pair and all(isinstance(end, int | float) and math.isfinite(end) for end in value) and value[0] < value[1]


def _choose_task(fingerprint: Mapping[str, Any], options: RunOptions) -> Choice:
    n_classes = len(fingerprint["classes"])
    if "multilabel" in fingerprint:
        return Choice("task", MULTILABEL, "given" if options.multilabel else "rule", _describe_labels(fingerprint))
    if options.grades is not None:
        return Choice("task", "ordinal", "given", f"--grades: {', '.join(fingerprint['classes'])}, from low to high")
    kind = "binary" if n_classes == 2 else "multiclass"
    return Choice("task", kind, "rule", f"{n_classes} classes: {', '.join(fingerprint['classes'])}")


def _describe_labels(fingerprint: Mapping[str, Any]) -> str:
    """Say how many of the items whose label is known have it, of each label, and how much is not known."""
    counts, n_items = fingerprint["classes"], fingerprint["n_items"]
    shares = (
        f"{name} {own['items'] / (own['items'] + own['negative_items']):.0%} of {own['items'] + own['negative_items']}"
        for name, own in counts.items()
    )
    missing = sum(own["missing_items"] for own in counts.values()) / (n_items * len(counts))
    return f"{len(counts)} labels an item, had by: {', '.join(shares)} where known; {missing:.0%} of all are not known"


def _choose_positive(fingerprint: Mapping[str, Any], options: RunOptions) -> Choice:
    """The class named; else the one whose name does not say normal; else the rarer."""
    classes: Mapping[str, Mapping[str, int]] = fingerprint["classes"]
    if "multilabel" in fingerprint:
        return Choice("positive", None, "rule", "each label is a task of its own: an item has it, or has it not")
    if options.positive is not None:
        return Choice("positive", options.positive, "given", "--positive")
    if len(classes) != 2:
        return Choice("positive", None, "rule", "several classes: each is reported against the rest")
    telling = [name for name in classes if not _is_negative(name)]
    if len(telling) == 1:
        return Choice("positive", telling[0], "rule", "the other class's name says that nothing is there")
    counts = fingerprint["parts"]["development"]
    rarer = min(classes, key=lambda name: (counts[name]["items"], name))
    return Choice("positive", rarer, "rule", "the rarer class, since no name tells; change it with --positive")


def _is_negative(name: str) -> bool:
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    return plain in NEGATIVE_NAMES or plain.startswith("non")


def _choose_split(fingerprint: Mapping[str, Any], options: RunOptions) -> Choice:
    kind: Kind = "given" if fingerprint["split_given"] else "rule"
    patients = "by patient" if fingerprint["patients_given"] else "by item, since no patients are given"
    together = fingerprint["n_together"]
    near = f"; {together} items stay with their near-duplicates" if together else ""
    reason = f"{patients}{near}; {fingerprint['split_reason']}"
    return Choice("split", "as given" if kind == "given" else f"own, seed {options.seed}", kind, reason)


def _choose_headline(fingerprint: Mapping[str, Any], options: RunOptions, n_nested: int | None) -> Choice:
    """Where the first number of the report comes from, and how wide its interval will be about; None: to be settled."""
    counts, of = _count_test_patients(fingerprint)
    reason = f"{of}: {forecast_interval(counts)}"
    alone = "development folds" if options.hold_test else "test part"
    if options.hold_test:
        reason = "--hold-test: the test part stays closed"
    elif fingerprint["split_given"] or options.test is not None or options.validation != "folds":
        return Choice("headline", alone, "rule", reason)
    if n_nested is None:
        return Choice("headline", None, "empirical", f"as nested is settled; {reason}", (NESTED, alone))
    if n_nested:
        return Choice("headline", NESTED, "rule", "every patient is judged by choices that others made")
    return Choice("headline", alone, "given" if options.hold_test else "rule", reason)


def settle_headline(plan: Plan, fingerprint: Mapping[str, Any], options: RunOptions) -> Plan:
    """Return the plan with the headline that follows from what was settled of nested cross-validation."""
    return _replace(plan, _choose_headline(fingerprint, options, plan["nested"]))


def _count_test_patients(fingerprint: Mapping[str, Any]) -> tuple[list[int], str]:
    """Return the test patients of each class, and how many they are in words; of several labels those of the rarest."""
    part = fingerprint["parts"]["test"]
    if "multilabel" not in fingerprint:
        counts = [own["patients"] for own in part.values()]
        return counts, f"{sum(counts)} test patients"
    both = {name: [own["patients"], own["negative_patients"]] for name, own in part.items()}
    rarest = min(both, key=lambda name: (min(both[name]), name))
    return both[rarest], f"{fingerprint['multilabel']['test']['patients']} test patients, of the rarest label, {rarest}"


def _choose_backbone(facts: BackboneFacts, options: RunOptions) -> Choice:
    kind: Kind = "fixed" if options.backbone == RunOptions().backbone else "given"
    reason = f"weights: {facts.source}, {facts.licence}, pretrained on {facts.pretrained_on}"
    names = list_backbones(options)
    if len(names) > 1:
        return Choice(
            "backbone", facts.name, "empirical", f"to be raced: {', '.join(names)}; until then, {reason}", names
        )
    return Choice("backbone", facts.name, kind, reason)


def _choose_size(fingerprint: Mapping[str, Any], facts: BackboneFacts, options: RunOptions) -> Choice:
    """The size it was trained on; a larger one too where images have the detail.

    Networks see objects larger in training, which crops at random, than in use; a larger image in use makes up for it
    (Touvron et al., Fixing the train-test resolution discrepancy, NeurIPS 2019).
    """
    native = facts.native_px
    if options.tile_px is not None and options.size_px is None:
        return Choice(
            "size_px", native, "rule", f"the size {facts.name} was trained on; --mpp says how much a tile shows"
        )
    if options.size_px is not None:
        return Choice("size_px", options.size_px, "given", f"--size-px; {facts.name} was trained on {native}")
    side = min(fingerprint[name]["median"] for name in ("width_px", "height_px"))
    if side <= native:
        reason = f"the size {facts.name} was trained on; half of the images have a side of at most {side:.0f} px"
        return Choice("size_px", native, "rule", reason)
    candidates = (native, STEP_PX * round(LARGER * native / STEP_PX))
    reason = (
        f"to be measured: the size {facts.name} was trained on, and a larger one, since the images have more detail"
    )
    return Choice("size_px", None, "empirical", reason, candidates)


def _choose_aspect(fingerprint: Mapping[str, Any], options: RunOptions) -> Choice:
    if options.tile_px is not None:
        return Choice("aspect", "squash", "rule", "tiles are square, so there is nothing to squash, pad or crop")
    ratio = fingerprint["aspect_ratio"]
    if ratio["min"] >= 0.98 and ratio["max"] <= 1.02:
        return Choice("aspect", "squash", "rule", "all images are square, so there is nothing to squash, pad or crop")
    reason = f"to be measured: width over height runs from {ratio['min']:.2f} to {ratio['max']:.2f}"
    return Choice("aspect", None, "empirical", reason, ASPECTS)


def _choose_channels(options: RunOptions) -> Choice:
    """What a network of three channels is given of a grey image."""
    if options.grey == "sum":
        return Choice("channels", "sum", "given", "one channel, to a first convolution summed over its three")
    return Choice("channels", "repeat", "fixed", "grey images give the same values to all three channels")


def _choose_reading(fingerprint: Mapping[str, Any], options: RunOptions) -> tuple[Choice, ...]:
    """How DICOM images and volumes become images, and of a bag which slices, and how they are joined."""
    reading = make_reading(options)
    plane = f"{reading.plane}{ISOTROPIC if reading.isotropic else ''}"
    window = "--window" if reading.windows else "DICOM images as each file says, else between its percentiles"
    frame = "of items of several" if reading.frame == "only" else "--frame, or the middle one for these dimensions"
    dimensions = _choose_dimensions(fingerprint, reading.dimensions, options)
    return (
        Choice("window", ",".join(reading.windows) or "file", "given" if reading.windows else "fixed", window),
        Choice("frame", reading.frame, "fixed" if reading.frame == "only" else "given", frame),
        Choice("plane", plane, "fixed" if plane == PLANES[0] else "given", "of the slices of volumes"),
        dimensions,
        *_choose_slices(find_depth(fingerprint, options), options),
        *_choose_tiles(options),
    )


def _choose_tiles(options: RunOptions) -> tuple[Choice, ...]:
    """At which resolution a whole slide is read, and how large its tiles are; nothing for other items."""
    if options.tile_px is None:
        return ()
    kind: Kind = "fixed" if options.mpp == RunOptions().mpp else "given"
    side_um = options.tile_px * options.mpp
    return (
        Choice("mpp", options.mpp, kind, "µm per pixel, of all slides alike, whatever they were scanned at"),
        Choice("tile_px", options.tile_px, "rule", f"a tile shows {side_um:g} µm: --tile-px, else the network's input"),
    )


def find_depth(fingerprint: Mapping[str, Any], options: RunOptions) -> Depth | None:
    """Return how a network takes the slices of these items, None where each is shown as one image."""
    dimensions = _choose_dimensions(fingerprint, make_reading(options).dimensions, options).value
    if dimensions != BAG and dimensions not in VOLUMES:
        return None
    most = int(fingerprint.get("slices", {"max": 1})["max"])
    native = VOLUMES.get(dimensions) == NATIVE  # which takes volumes of one depth, however few slices there are
    shown = settle_slices(options)
    n_slices = read_form(shown)[1] if native else count_shown(shown, most)
    return Depth(n_slices, VOLUMES.get(dimensions, options.pooling))


def _choose_dimensions(fingerprint: Mapping[str, Any], stated: str, options: RunOptions) -> Choice:
    """What the network is shown of an item: a bag where items have slices and nothing else is asked for."""
    slices = fingerprint.get("slices")
    if stated != "auto":
        given = "--dimensions" if options.dimensions != "auto" else "--frame names one slice"
        return Choice("dimensions", stated, "given", given)
    if slices is None and options.tile_px is None:
        return Choice("dimensions", "2d", "rule", "every item is one image")
    slices = slices or {"min": 1, "max": 1}
    what = "slices" if options.tile_px is None else "tiles of tissue"
    reason = (
        f"items have {slices['min']} to {slices['max']} {what}: all that are shown count, and none has to be chosen"
    )
    return Choice("dimensions", BAG, "rule", reason)


def _choose_slices(depth: Depth | None, options: RunOptions) -> tuple[Choice, ...]:
    """Which slices of an item a network is shown, and how their features are joined where they are shown one by one."""
    if depth is None:
        return ()
    usual = RunOptions()
    reason = f"an item costs about {depth.n_slices} times what an image does; items of fewer slices show some again"
    given, why = options.slices != usual.slices, "--slices"
    if options.tile_px is not None and not given:
        why = (
            "so many that a mean hardly hangs on which they are, and few enough to be computed; --slices all takes all"
        )
    slices = Choice("slices", settle_slices(options), "given" if given else "fixed", why)
    number = Choice("n_slices", depth.n_slices, "rule", reason)
    if depth.is_volume:
        return slices, number
    pooling = Choice("pooling", depth.join, "fixed" if depth.join == usual.pooling else "given", "--pooling")
    return slices, number, pooling


def _choose_wide_range(fingerprint: Mapping[str, Any]) -> Choice:
    wide = fingerprint["wide_range"]
    if wide is None:
        if fingerprint["test_has_wide"]:
            raise OptionError(
                "images of the test part have more than 8 bits, none of the development part has; expected one kind. "
                "Convert them alike, or split the data anew"
            )
        return Choice("wide_range", None, "rule", "all images have 8 bits a channel")
    depth = ", ".join(f"{count} images of {bits} bits" for bits, count in fingerprint["bits"].items())
    return Choice(
        "wide_range", wide, "rule", f"{depth}: one black and white for all, values beyond are counted and said"
    )


def _choose_engine(hardware: Hardware) -> Choice:
    reason = f"{hardware.cores} cores, {hardware.memory_mib} MiB" + (f", {hardware.cuda}" if hardware.cuda else "")
    return Choice("engine", hardware.device, "rule", reason)


def _choose_precision(hardware: Hardware, options: RunOptions) -> Choice:
    if options.precision != "auto":
        return Choice("precision", options.precision, "given", "--precision")
    if not hardware.bf16:
        return Choice("precision", "f32", "rule", "the processor has no bf16 arithmetic")
    reason = "to be measured: bf16 where the features of these items agree with f32 (cosine at least 0.99 for each)"
    return Choice("precision", None, "empirical", reason, ("bf16", "f32"))


def _choose_class_weight(fingerprint: Mapping[str, Any], options: RunOptions) -> Choice:
    if options.class_weight != "none":
        return Choice(
            "class_weight", options.class_weight, "given", "probabilities are corrected back by the log prior"
        )
    several = "multilabel" in fingerprint
    what = "larger value of the most uneven label over the other" if several else "largest class over smallest"
    reason = f"{what} is {fingerprint['imbalance']}; weights would bend the probabilities"
    return Choice("class_weight", "none", "fixed", reason)


def _choose_heads(fingerprint: Mapping[str, Any], options: RunOptions) -> Choice:
    heads = list_heads(options)
    if not heads:
        return Choice("heads", [], "given", "no strategy that freezes the whole backbone is asked for")
    if options.head or options.strategy:
        return Choice("heads", list(heads), "given", "--head or --strategy")
    if fingerprint["n_items"] > SLOW_HEADS_ITEMS:
        heads = tuple(head for head in heads if head not in SLOW_HEADS)
        return Choice("heads", list(heads), "rule", f"more than {SLOW_HEADS_ITEMS} items: the slow ones are left out")
    return Choice("heads", list(heads), "fixed", "all heads on the same features, cheapest first")


def _list_rung_names(heads: Sequence[str], thawing: Sequence[Choice], facts: BackboneFacts) -> list[str]:
    """Names of the rungs that can be chosen, in the order of the ladder: heads, then lines from the top down.

    Controls only where nothing else is asked for. Raises OptionError where nothing is left to try.
    """
    values = {choice.name: choice.value for choice in thawing}
    names = [
        *heads,
        *(f"{name_strategy(line, facts, values['highest_block'])} {line}" for line in values["lines"]),
    ] or name_controls(values["controls"], values["handcrafted_heads"])
    if not names:
        reason = next(choice.reason for choice in thawing if choice.name == "lines")
        raise OptionError(f"--strategy: nothing is left to try: {reason}; ask for feature_extractor too")
    return names


def _choose_rung(names: Sequence[str]) -> Choice:
    if len(names) == 1:
        return Choice("rung", names[0], "given", "the only one to try")
    reason = "to be measured: the first whose paired loss against the best is within one standard error"
    return Choice("rung", None, "empirical", reason, tuple(names))


def _choose_final(options: RunOptions) -> Choice:
    kind: Kind = "fixed" if options.final == RunOptions().final else "given"
    frozen = "a chosen head is fitted again on all development patients"
    if options.final == "refit":
        return Choice(
            "final", "refit", kind, f"{frozen}; so is a thawed network, for the median number of epochs of the folds"
        )
    if options.final == "ensemble":
        return Choice(
            "final", "ensemble", kind, f"{frozen}; of a thawed rung the networks of its folds are kept, calibrated"
        )
    kept = "of a thawed rung the networks of all folds are kept, calibrated; where the budget left some out, as many as it "
    kept += "has time for are trained on all development patients, for the folds' median of epochs"
    return Choice("final", "auto", kind, f"{frozen}; {kept}")


def _as_tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(entry[key]) if entry.get(key) is not None else None for key in ("candidates", "evidence")}


def _format_choice(choice: Choice, width: int) -> str:
    value = "?" if choice.value is None and choice.kind == "empirical" else choice.value
    text = f"{choice.name:<{width}}  {value!s:<18}  {choice.kind:<9}  {choice.reason}"
    return text + (f" (among {', '.join(map(str, choice.candidates))})" if choice.candidates and value == "?" else "")
