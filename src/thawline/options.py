"""The options of the main job: each declared once, with its default, its range and its meaning in one line.

The command line and the guide derive from here; `check_options` enforces the ranges.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from thawline.cost import read_duration
from thawline.errors import OptionError

STRATEGIES: dict[str, tuple[str, ...]] = {  # name: aliases accepted, as the literature has them
    "feature_extractor": ("frozen", "linear_probe", "linear probe", "feature extractor", "off-the-shelf"),
    "feature_extractor_hybrid": ("hybrid", "feature extractor hybrid", "deep features + classifier"),
}
HEADS: dict[str, tuple[str, ...]] = {  # strategy: its heads, cheapest first; this order is the order of preference
    "feature_extractor": ("linear",),
    "feature_extractor_hybrid": ("svm", "random_forest", "k_nn", "gradient_boosting"),
}
ALL_HEADS = tuple(head for heads in HEADS.values() for head in heads)


def option(default: Any, meaning: str, *, among: tuple[str, ...] = (), least: int | None = None) -> Any:
    """Declare one option: its default, its one-line meaning, and its range."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, "among": among, "least": least})


@dataclasses.dataclass(frozen=True, slots=True)
class RunOptions:
    """What a user may decide about a run; everything else is decided by the plan."""

    backbone: str = option(
        "efficientnet_lite0", "Pretrained network: a name from the table, timm/NAME or torchvision/NAME."
    )
    weights: Path | None = option(None, "Weight file to use, with its description NAME.json beside it.")
    strategy: str | None = option(None, "Try this strategy only: feature_extractor or feature_extractor_hybrid.")
    head: str | None = option(None, "Try this head only.", among=ALL_HEADS)
    budget: str = option(
        "20m", "Time to spend on choosing, with its unit: 90s, 20m, 2h. The first rung is always finished."
    )
    positive: str | None = option(None, "Positive class of a two-class task.")
    seed: int = option(0, "Seed of splits, heads and intervals.", least=0)
    folds: int = option(5, "Development folds by patient; fewer where a class has too few patients.", least=2)
    validation: str = option("folds", "Score development by folds, or on the given val part.", among=("folds", "given"))
    class_weight: str = option("none", "Weight classes when fitting heads.", among=("none", "balanced"))
    precision: str = option("auto", "Arithmetic of the engine.", among=("auto", "f32", "bf16"))
    device: str = option("auto", "Where the engine runs.", among=("auto", "cpu", "cuda"))
    hold_test: bool = option(False, "Leave the test part closed: report development only.")
    allow_outside: bool = option(False, "Allow a manifest's paths to leave its folder.")
    allow_leak: bool = option(False, "Go on although patients or images cross the given split; the report says so.")
    skip_unreadable: bool = option(False, "Leave out items that cannot be read; the report says which.")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, as `spec.json` holds it; a weight file by its name only."""
        return {**dataclasses.asdict(self), "weights": self.weights.name if self.weights else None}


def change_options(options: RunOptions, **changes: Any) -> RunOptions:
    """Return the options with some fields changed. Raises OptionError for a name that is none."""
    known = [field.name for field in dataclasses.fields(options)]
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise OptionError(f"unknown option {', '.join(unknown)}: expected some of {', '.join(known)}")
    return dataclasses.replace(options, **changes)


def check_options(options: RunOptions) -> RunOptions:
    """Check every option against its range and resolve aliases. Raises OptionError."""
    for field in dataclasses.fields(options):
        value, among, least = getattr(options, field.name), field.metadata["among"], field.metadata["least"]
        if among and value is not None and value not in among:
            raise OptionError(f"--{field.name.replace('_', '-')}: expected one of {', '.join(among)}; found {value!r}")
        if least is not None and value < least:
            raise OptionError(f"--{field.name.replace('_', '-')}: expected {least} or more, found {value}")
    read_duration(options.budget)
    strategy = resolve_strategy(options.strategy) if options.strategy is not None else None
    if strategy and options.head and options.head not in HEADS[strategy]:
        raise OptionError(
            f"--head {options.head} does not belong to --strategy {strategy}: {', '.join(HEADS[strategy])}"
        )
    return dataclasses.replace(options, strategy=strategy)


def resolve_strategy(name: str) -> str:
    """Return the one name of a strategy for it or an alias. Raises OptionError."""
    wanted = name.strip().lower()
    for strategy, aliases in STRATEGIES.items():
        if wanted == strategy or wanted in aliases:
            return strategy
    raise OptionError(f"--strategy: expected one of {', '.join(STRATEGIES)}; found {name!r}")


def list_heads(options: RunOptions) -> tuple[str, ...]:
    """Heads that the options leave to try, in their fixed order."""
    if options.head is not None:
        return (options.head,)
    return HEADS[options.strategy] if options.strategy else ALL_HEADS
