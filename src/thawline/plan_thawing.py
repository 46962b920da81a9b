"""The choices of the plan that concern thawing: lines, views, augmentation, recipe, and what is delivered."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from thawline.cost import read_duration
from thawline.errors import OptionError
from thawline.options import ALL_HEADS, CONTROLS, THAWED, TRAINED, RunOptions, list_strategies, steps_by_layers
from thawline.types import BALANCES, SLICE_POOLING, Augmentation, BackboneFacts, Choice, Hardware, Kind, Line, Recipe

MILD = Augmentation(turn_deg=7, shift=0.05, scale=(0.95, 1.1), flip_sides=True, tone=0.1)
ANY_WAY_UP = Augmentation(
    turn_deg=45, scale=(0.9, 1.2), flip_sides=True, flip_vertically=True, quarter_turns=True, tone=0.2, colour=0.2
)
AUGMENTATIONS: dict[str, tuple[Augmentation, str]] = {  # modality: what may change, and why
    "unknown": (MILD, "nothing is known of the images: less of all than where something is (--modality says it)"),
    "xray": (
        Augmentation(turn_deg=7, shift=0.06, scale=(0.92, 1.1), flip_sides=True, tone=0.15),
        "patients stand much alike before a film: small turns and shifts, exposure differs",
    ),
    "ct": (
        Augmentation(turn_deg=10, shift=0.08, scale=(0.92, 1.15), flip_sides=True, tone=0.1),
        "patients lie much alike; values are calibrated, so the tone changes little",
    ),
    "mri": (
        Augmentation(turn_deg=10, shift=0.08, scale=(0.92, 1.15), flip_sides=True, tone=0.2),
        "patients lie much alike; values are not calibrated, so the tone may change",
    ),
    "ultrasound": (
        Augmentation(turn_deg=10, shift=0.1, scale=(0.9, 1.2), flip_sides=True, tone=0.2),
        "the probe is held by hand and its gain set by hand; depth stays below",
    ),
    "microscopy": (
        dataclasses.replace(ANY_WAY_UP, hue=0.03),
        "a slide has no way up: full turns and flips; stains differ in colour",
    ),
    "dermoscopy": (ANY_WAY_UP, "a lesion has no way up: full turns and flips; lamps and skins differ in colour"),
    "fundus": (
        Augmentation(turn_deg=15, shift=0.05, scale=(0.95, 1.1), flip_sides=True, tone=0.2, colour=0.1),
        "the eye is upright and centred; cameras differ in exposure and colour",
    ),
    "endoscopy": (ANY_WAY_UP, "the scope turns: full turns and flips; light and mucosa differ in colour"),
}
VIEWS = (4, 2, 1)
LEAST_LINES = 2  # cached for a number of views, or fewer views are taken
WORTH_CACHING = 0.75  # share of compute above a line, beyond which the prefix is too small a part of a step to be kept
ITEM_PASSES = 6_000  # what one of five trainings takes in; with fewer folds more, as there is the time for it
LEAST_EPOCHS = 3  # of these items, and at most the recipe's
LONGEST = 2.0  # times as long may it be where the budget, or what a minute of it does, is that much more than usual
BF16_SPEED = 2.0  # of training in bf16 over float32 arithmetic
PLANNED = (  # the fields of a Recipe that a plan may change
    "learning_rate",
    "epochs",
    "batch_items",
    "decay",
    "head_rate",
    "weight_decay",
    "label_smoothing",
    "mixup",
    "start_strength",
    "balance",
    "focal",
    "train_norms",
    "auto_rgn",
)
BATCH_PIXELS, LEAST_BATCH = 64 * 224**2, 2  # of bags in a step
BATCH_SLICES = 1 << 14  # in a step that trains on their features only
RECIPE: dict[str, Any] = {name: getattr(Recipe(), name) for name in PLANNED}


def choose_thawing(
    fingerprint: Mapping[str, Any], hardware: Hardware, facts: BackboneFacts, options: RunOptions
) -> tuple[Choice, ...]:
    """Decide all that concerns thawing. Raises OptionError for lines that are none, or options that do not go together."""
    lines = _choose_lines(facts, options)
    chosen = list_chosen(facts, lines.value)
    controls = _choose_controls(facts, options)
    if "random_init" in controls.value:
        chosen = [*chosen, facts.lines[-1]] if facts.lines[-1] not in chosen else chosen
    views, cached = _choose_views(fingerprint, hardware, chosen, options)
    return (
        lines,
        _choose_block(facts, options),
        controls,
        _choose_handcrafted(controls.value, options),
        views,
        cached,
        _choose_augmentation(fingerprint, options),
        _choose_recipe(fingerprint, hardware, facts, options, lines.value),
        _choose_tta(options),
        Choice(
            "useful_gain",
            options.useful_gain,
            "fixed" if options.useful_gain == RunOptions().useful_gain else "given",
            "AUC: two lines in a row with less than 10 % chance of gaining it on the best before end the ladder, of those "
            "that thaw half of the parameters or more",
        ),
    )


def list_chosen(facts: BackboneFacts, names: Sequence[str]) -> list[Line]:
    """Return the facts of the named lines, in the order of the names."""
    known = {line.name: line for line in (*facts.fine_lines, *facts.lines)}
    return [known[name] for name in names]


def describe_line(line: Line) -> str:
    """Say what lies above a line: "blocks.5 (86 % of parameters, 32 % of compute)"."""
    return f"{line.name} ({line.thawed_fraction:.0%} of parameters, {line.compute_fraction:.0%} of compute)"


def name_strategy(line: str, facts: BackboneFacts, highest: str | None = None) -> str:
    """The strategy of a line: that of the lowest one trains everything, unless what lies above ``highest`` stays frozen."""
    lowest = {lines[-1].name for lines in (facts.lines, facts.fine_lines) if lines}
    return "fine_tuning_from_scratch" if line in lowest and not _share_above(highest, facts) else "fine_tuning"


def share_trained(line: str, facts: BackboneFacts, highest: str | None = None) -> float:
    """The share of the backbone's parameters that is trained: from a line up to the block ``highest``, or to the top."""
    known = {each.name: each.thawed_fraction for each in (*facts.fine_lines, *facts.lines)}
    return known[line] - _share_above(highest, facts)


def _share_above(block: str | None, facts: BackboneFacts) -> float:
    """The share of parameters above a block; 0 without one."""
    for lines in (facts.lines, facts.fine_lines):
        names = [line.name for line in lines]
        if block in names[1:]:
            return lines[names.index(block) - 1].thawed_fraction
    return 0.0


def name_controls(controls: Sequence[str], heads: Sequence[str]) -> list[str]:
    """Names of the rungs of the controls: of handcrafted features one for each of ``heads``."""
    return [
        name
        for control in controls
        for name in (map(name_handcrafted, heads) if control == "handcrafted" else [control])
    ]


def name_handcrafted(head: str) -> str:
    """The name of the rung of handcrafted features with this head."""
    return "handcrafted" if head == "linear" else f"handcrafted {head}"


def check_recipe(value: Any) -> bool:
    """Tell whether an edited recipe has the known fields, each of its kind."""
    return (
        isinstance(value, dict)
        and value.keys() == RECIPE.keys()
        and all(_is_alike(value[name], known) for name, known in RECIPE.items())
        and value["learning_rate"] > 0
        and value["epochs"] >= 1
        and value["batch_items"] >= 1
        and 0 < value["decay"] <= 1
        and value["label_smoothing"] < 1
        and value["balance"] in BALANCES
    )


def check_norms(train_norms: bool, facts: BackboneFacts) -> None:
    """Refuse to train running statistics that the weights do not have. Raises OptionError."""
    if train_norms and facts.folded_batchnorm:
        raise OptionError(
            f"--train-norms: batch normalisation of {facts.name} was folded into its weights, so there are no statistics to "
            "train, and training them wrecks the network; leave the option out, or train_norms false in a plan file"
        )


def _is_alike(value: Any, known: Any) -> bool:
    """Tell whether a value is of a known one's kind: a word, yes or no, a whole number, or any number from 0."""
    if isinstance(known, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return type(value) is type(known)


def _choose_lines(facts: BackboneFacts, options: RunOptions) -> Choice:
    """The lines to climb, from the top down, with what lies above each."""
    strategies = list_strategies(options)
    steps = facts.fine_lines if steps_by_layers(options) else facts.lines
    if set(TRAINED).isdisjoint(strategies):
        return Choice("lines", [], "given", "no strategy that thaws is asked for")
    if not steps:
        return Choice("lines", [], "rule", f"the blocks of {facts.name} cannot be traced, so it stays frozen")
    if set(THAWED).isdisjoint(strategies):
        return Choice("lines", [], "given", "of what thaws, only the control random_init is asked for")
    one = _find_line(steps, options)
    if one is not None:
        return Choice("lines", [one.name], "given", f"trained above: {describe_line(one)}")
    if options.tile_px is not None and options.strategy is None:
        return _choose_line_of_slides(steps)
    wanted = [line for line in steps if name_strategy(line.name, facts) in strategies]
    if not wanted:
        reason = f"the only line of {facts.name} trains everything, which is fine_tuning_from_scratch"
        return Choice("lines", [], "given", reason)
    shares = "; ".join(describe_line(line) for line in wanted)
    kind: Kind = "fixed" if options.sequence == "blocks" and options.strategy is None else "given"
    return Choice("lines", [line.name for line in wanted], kind, f"from the top down, trained above each: {shares}")


def _choose_line_of_slides(steps: Sequence[Line]) -> Choice:
    """The line above the whole backbone, where attention has one."""
    why = "a step of a network holds all tiles of a slide, so that only what weights them is trained (--strategy says more)"
    top = [line.name for line in steps if line.name == SLICE_POOLING]
    return Choice("lines", top, "rule", why if top else f"{why}; --pooling attention has such weights")


def _find_line(steps: Sequence[Line], options: RunOptions) -> Line | None:
    """The one line that the options name, None where they leave it to the ladder."""
    names = [line.name for line in steps]
    if options.ratio is not None:
        ratio = options.ratio
        return min(steps, key=lambda line: abs(line.thawed_fraction - ratio))
    if options.last_layers is not None:
        if options.last_layers > len(steps):
            raise OptionError(f"--last-layers: expected at most {len(steps)}, found {options.last_layers}")
        return steps[options.last_layers - 1]
    if options.thaw_line is None and options.blocks is None:
        return None
    flag = "--thaw-line" if options.blocks is None else "--blocks"
    wanted = options.thaw_line if options.blocks is None else options.blocks.partition(":")[0]
    if wanted not in names:
        raise OptionError(f"{flag}: expected one of {', '.join(names)}; found {wanted!r}")
    return steps[names.index(wanted)]


def _choose_block(facts: BackboneFacts, options: RunOptions) -> Choice:
    if options.blocks is None:
        return Choice("highest_block", None, "fixed", "everything above a line is trained, up to the head")
    steps = facts.fine_lines if steps_by_layers(options) else facts.lines
    names = [line.name for line in steps]
    if not names:
        return Choice("highest_block", None, "rule", f"the blocks of {facts.name} cannot be traced")
    lowest, _, highest = options.blocks.partition(":")
    if highest not in names or names.index(highest) > names.index(lowest):
        raise OptionError(
            f"--blocks: expected LOWEST:HIGHEST among, from the top down, {', '.join(names)}; found {options.blocks!r}"
        )
    return Choice(
        "highest_block", highest, "given", f"--blocks: of the backbone, what lies above {highest} stays frozen"
    )


def _choose_controls(facts: BackboneFacts, options: RunOptions) -> Choice:
    strategies = list_strategies(options)
    controls = [name for name in CONTROLS if name in strategies and (name == "handcrafted" or facts.lines)]
    reason = "reported beside the rungs and never chosen: what pretrained features, or transfer, bring"
    if not controls:
        reason = "none is asked for"
    elif set(strategies) <= set(CONTROLS):
        reason = "nothing else is asked for, so that a control is what is delivered"
    if "random_init" in strategies and not facts.lines:
        reason += f"; without random_init, since the blocks of {facts.name} cannot be traced"
    kind: Kind = "fixed" if strategies == list_strategies(RunOptions()) else "given"
    return Choice("controls", controls, kind, reason)


def _choose_handcrafted(controls: Sequence[str], options: RunOptions) -> Choice:
    """The heads that handcrafted features get: the linear one as a control, all of them where nothing else is asked for."""
    if "handcrafted" not in controls:
        return Choice("handcrafted_heads", [], "rule", "no handcrafted features are asked for")
    if options.head is not None:
        return Choice("handcrafted_heads", [options.head], "given", "--head")
    if set(list_strategies(options)) <= set(CONTROLS):
        return Choice("handcrafted_heads", list(ALL_HEADS), "rule", "nothing but controls is asked for: all heads")
    return Choice("handcrafted_heads", ["linear"], "fixed", "as a control, with the head that is the first rung's")


def _choose_views(
    fingerprint: Mapping[str, Any], hardware: Hardware, lines: Sequence[Line], options: RunOptions
) -> tuple[Choice, Choice]:
    """How many views are cached, and at which lines: as many as there is room for, the top lines first."""
    n_items = _count_items(fingerprint)
    n_worth = sum(line.compute_fraction <= WORTH_CACHING for line in lines)
    sizes = [2 * math.prod(line.shape) * n_items / 2**20 for line in lines[:n_worth]]  # float16
    if options.views is None and [line.name for line in lines] == [SLICE_POOLING] and options.tile_px is not None:
        reason = "the features of tiles are there already, and a slide has many of them: no augmented views"
        return Choice("views", 0, "rule", reason), Choice("cached_lines", [SLICE_POOLING], "rule", reason)
    if not lines or options.views == 0:
        reason = "--views 0: the prefix runs for every batch" if lines else "nothing is thawed"
        return Choice("views", 0, "given", reason), Choice("cached_lines", [], "rule", "none, as no views are kept")
    given = options.views is not None
    candidates = (options.views,) if options.views is not None else VIEWS
    for n_views in candidates:
        needs = [(n_views + 1) * sum(sizes[: place + 1]) for place in range(n_worth)]
        n_lines = sum(need <= hardware.cache_mib for need in needs)
        if n_worth and n_lines >= min(LEAST_LINES, n_worth):
            kept, rest = [line.name for line in lines[:n_lines]], [line.name for line in lines[n_lines:]]
            reason = f"{n_views} views and the clean one of {n_items} items take {needs[n_lines - 1]:.0f} of "
            reason += f"{hardware.cache_mib} MiB"
            note = (
                f"; at {', '.join(rest)} the prefix runs for every batch, with a fresh view each time" if rest else ""
            )
            views = Choice("views", n_views, "given" if given else "rule", reason)
            return views, Choice("cached_lines", kept, "rule", reason + note)
    least = (candidates[-1] + 1) * sum(sizes[:LEAST_LINES])
    reason = (
        f"{candidates[-1]} views would take {least:.0f} MiB, there is room for {hardware.cache_mib}: the prefix runs for "
        "every batch, with a fresh view each time; THAWLINE_CACHE_MIB raises the limit"
    )
    if not n_worth:
        reason = "below these lines there is too little of the network to be kept: the prefix runs for every batch"
    return Choice("views", 0, "rule", reason), Choice("cached_lines", [], "rule", "none, as no views are kept")


def _choose_augmentation(fingerprint: Mapping[str, Any], options: RunOptions) -> Choice:
    """What may change between views, by modality; nothing of colour on grey images, no side exchanged where it matters."""
    augmentation, reason = AUGMENTATIONS[options.modality]
    if set(fingerprint["channels"]) <= {"1", 1, "2", 2}:
        augmentation = dataclasses.replace(augmentation, colour=0.0, hue=0.0)
        reason += "; all images are grey, so no colour is changed"
    if options.side_matters:
        augmentation = dataclasses.replace(augmentation, flip_sides=False, quarter_turns=False)
        if augmentation.flip_vertically:  # with a half turn it would exchange the sides
            augmentation = dataclasses.replace(augmentation, flip_vertically=False)
        reason += "; --side-matters: nothing that exchanges left and right"
    elif augmentation.flip_sides:
        reason += "; left and right are exchanged (--side-matters forbids it)"
    kind: Kind = "given" if options.modality != "unknown" or options.side_matters else "rule"
    value = {**dataclasses.asdict(augmentation), "scale": list(augmentation.scale)}  # as a plan file has it
    return Choice("augmentation", value, kind, f"{options.modality}: {reason}")


def _choose_recipe(
    fingerprint: Mapping[str, Any],
    hardware: Hardware,
    facts: BackboneFacts,
    options: RunOptions,
    lines: Sequence[str],
) -> Choice:
    """How networks are trained; what many items need is steps, not epochs."""
    check_norms(options.train_norms, facts)
    balance = "sampling" if options.sampling == "balanced" else "weights" if options.class_weight != "none" else "none"
    n_items = _count_items(fingerprint)
    share = read_duration(options.budget) / read_duration(RunOptions().budget)
    longer = min(max(share * (BF16_SPEED if hardware.bf16 else 1.0), 1.0), LONGEST)
    n_folds = 1 if options.validation == "given" else options.folds
    passes = longer * ITEM_PASSES * max(RunOptions().folds / n_folds, 1.0)
    epochs = min(round(longer * RECIPE["epochs"]), max(LEAST_EPOCHS, round(passes / n_items)))
    ruled = {"epochs": epochs, "batch_items": _count_batch(facts, only_pooling=lines == [SLICE_POOLING])}
    changes = {
        **ruled,
        "mixup": float(options.mixup),
        "balance": balance,
        "focal": 2.0 if options.loss == "focal" else 0.0,
        "train_norms": options.train_norms,
        "auto_rgn": options.auto_rgn,
    }
    recipe = {**RECIPE, **changes}
    given = f"{n_items} items and what the budget has time for" if longer > 1 else f"{n_items} items"
    reason = (
        "AdamW from a calm linear head of the frozen features, weights averaged; a part held back of each fold chooses the "
        f"learning rate (this one or smaller), the epoch of the {epochs} that {given} call for, and how much of the frozen "
        "head is blended in"
    )
    if hardware.bf16:
        reason += "; in bf16 at the lines where its gradients agree with those in f32 (--precision f32 forbids it)"
    return Choice("recipe", recipe, "rule" if recipe == {**RECIPE, **ruled} else "given", reason)


def _count_batch(facts: BackboneFacts, *, only_pooling: bool = False) -> int:
    """Number of items in a step: of bags fewer, as memory goes by pixels, or by features if ``only_pooling`` is trained."""
    usual: int = RECIPE["batch_items"]
    if not facts.n_slices:
        return usual
    if only_pooling:
        return min(usual, max(LEAST_BATCH, BATCH_SLICES // facts.n_slices))
    return min(usual, max(LEAST_BATCH, int(BATCH_PIXELS / facts.size_px**2 / facts.n_slices)))


def _count_items(fingerprint: Mapping[str, Any]) -> int:
    """Number of development items."""
    if "multilabel" in fingerprint:
        return int(fingerprint["multilabel"]["development"]["items"])
    return sum(int(part["items"]) for part in fingerprint["parts"]["development"].values())


def _choose_tta(options: RunOptions) -> Choice:
    if not options.tta:
        return Choice(
            "tta", False, "fixed", "one view an image; --tta measures whether the mean over several is better"
        )
    reason = (
        "to be measured: the mean over the clean and the augmented views, where its out-of-fold loss is smaller by "
    )
    return Choice("tta", None, "empirical", reason + "more than its standard error", (False, True))
