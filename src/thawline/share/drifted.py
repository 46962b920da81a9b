"""Drift of new data in words and in a figure: what of it is notable, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thawline.share.figures import LINES, WIDTH_IN, Caption, open_figure, shorten, to_svg
from thawline.share.words import count_things, format_number, put_in_words, write_p, write_percent

NAMES = {
    "width_px": "Width",
    "height_px": "Height",
    "aspect_ratio": "Width to height",
    "slices": "Slices",
    "formats": "Formats",
    "channels": "Channels",
    "bits": "Bits",
}
NOTABLE_SHARE = 0.05  # of items that are of no kind or size seen in development
NOTABLE_P = 0.05
NOTHING = "Nothing that was compared differs notably from the development data."


def list_notable(drift: Mapping[str, Any]) -> list[str]:
    """Return what of the drift a reader should know, in plain sentences: none where nothing differs notably."""
    return [
        *describe_unfamiliar(drift["familiarity"]),
        *describe_images(drift["images"]),
        *describe_classes(drift["classes"]),
        *describe_probabilities(drift["probabilities"]),
    ]


def describe_unfamiliar(familiarity: Mapping[str, Any] | None) -> list[str]:
    """Say where surely more images are unfamiliar than of the development data would be."""
    if familiarity is None:
        return []
    found, expected = familiarity["unfamiliar"], 1 - familiarity["share"]
    if found["low"] is None or found["low"] <= expected:
        return []
    return [
        f"{familiarity['n_unfamiliar']} of {count_things(familiarity['n_items'], 'image')} "
        f"({write_percent(found['value'])}) are unlike those of development; {write_percent(expected)} would be expected. "
        "What the model says of them rests on nothing that it has seen."
    ]


def describe_images(images: Mapping[str, Any]) -> list[str]:
    """Say of which sizes and kinds there are many images that development had none of."""
    said, n_items = [], images["n_items"]
    for name, found in images["ranges"].items():
        if found["n_outside"] > NOTABLE_SHARE * n_items:
            before, now = found["development"], found["external"]
            said.append(
                f"{NAMES[name]}: {found['n_outside']} of {n_items} outside the range of development, {before['min']:g} to "
                f"{before['max']:g}; the median is {now['median']:g}, of development {before['median']:g}."
            )
    for name, found in images["kinds"].items():
        if found["n_new"] > NOTABLE_SHARE * n_items:
            here, there = (", ".join(found[part]) for part in ("external", "development"))
            said.append(
                f"{NAMES[name]}: {here}, of development {there}; {found['n_new']} of {n_items} are new to the model."
            )
    return said


def describe_classes(classes: Mapping[str, Any]) -> list[str]:
    """Say where the mix of classes differs by more than chance."""
    said = []
    for name, p_value in classes["p_values"].items():
        if p_value is None or p_value >= NOTABLE_P:
            continue
        several = _is_label(classes, name)
        shares = [_share_patients(classes[part], name if several else None) for part in ("external", "development")]
        what = f"The share of patients with {name}" if several else "The mix of classes"
        said.append(
            f"{what} differs: {shares[0]}, of development {shares[1]} ({write_p(p_value)}). Probabilities, predictive "
            "values, accuracy and average precision change with it."
        )
    return said


def _is_label(classes: Mapping[str, Any], name: str) -> bool:
    """Tell one of several labels from the mix of classes as a whole."""
    return "negative_patients" in classes["external"].get(name, {})


def _share_patients(counts: Mapping[str, Any], label: str | None) -> str:
    if label is not None:
        own = counts[label]
        return write_percent(own["patients"] / max(own["patients"] + own["negative_patients"], 1))
    total = max(sum(own["patients"] for own in counts.values()), 1)
    return ", ".join(f"{name}: {write_percent(own['patients'] / total)}" for name, own in counts.items())


def describe_probabilities(probabilities: Mapping[str, Any]) -> list[str]:
    """Say where probabilities are distributed otherwise than out of fold, by more than chance."""
    said = []
    for name, found in probabilities.items():
        limit = found["stability_limit"]
        unstable = limit is not None and found["stability"] > limit
        if found["p_value"] >= NOTABLE_P and not unstable:
            continue
        now, before = (_write_half(found["quantiles"], part) for part in ("external", "development"))
        said.append(
            f"Probabilities of {name} are distributed otherwise than out of fold: half of the patients lie within {now}, of "
            f"development {before} (Kolmogorov-Smirnov distance {found['distance']:.2f}, {write_p(found['p_value'])}; "
            f"stability index {found['stability']:.2f}{'' if limit is None else f', by chance up to {limit:.2f}'})."
        )
        if (own := found["own_test"]) is not None and own["p_value"] < NOTABLE_P:
            said[-1] += (
                f" So are those of the run's own test part (distance {own['distance']:.2f}): some of it may be that the "
                "finished model predicts otherwise than those of the folds."
            )
    return said


def _write_half(quantiles: Mapping[str, Any], part: str) -> str:
    low, high = (quantiles[part][quantiles["levels"].index(level)] for level in (0.25, 0.75))
    return f"{low:.2f} to {high:.2f}"


def tabulate_drift(drift: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the drift as rows of a table: what, of development, of the new data, and how far apart."""
    rows, images = [], drift["images"]
    for name, found in images["ranges"].items():
        cells = [f"{found[part]['median']:g} ({found[part]['min']:g} to {found[part]['max']:g})" for part in _PARTS]
        rows.append(
            _make_row(f"{NAMES[name]}, median and range", cells, f"{found['n_outside']} of {images['n_items']} outside")
        )
    for name, found in images["kinds"].items():
        cells = [", ".join(f"{value} ({count})" for value, count in found[part].items()) for part in _PARTS]
        rows.append(_make_row(NAMES[name], cells, f"{found['n_new']} of {images['n_items']} new"))
    classes = drift["classes"]
    for name, p_value in classes["p_values"].items():
        label = name if _is_label(classes, name) else None
        cells = [_share_patients(classes[part], label) for part in _PARTS]
        rows.append(
            _make_row(f"Patients with {label}" if label else "Patients of each class", cells, _write_p(p_value))
        )
    for name, found in drift["probabilities"].items():
        middle = found["quantiles"]["levels"].index(0.5)
        cells = [format_number(found["quantiles"][part][middle]) for part in _PARTS]
        limit = "" if found["stability_limit"] is None else f" (by chance up to {found['stability_limit']:.2f})"
        apart = (
            f"distance {found['distance']:.2f}, {write_p(found['p_value'])}; stability {found['stability']:.2f}{limit}"
        )
        rows.append(_make_row(f"Probability of {name}, median patient", cells, apart))
    return rows


_PARTS = ("development", "external")


def _make_row(name: str, cells: list[str], apart: str) -> dict[str, str]:
    return {"name": put_in_words(name), "development": cells[0], "external": cells[1], "apart": apart}


def _write_p(p_value: float | None) -> str:
    return "not compared" if p_value is None else write_p(p_value)


def describe_strangeness(familiarity: Mapping[str, Any] | None) -> str:
    """Return how unlike development the images are, in a sentence; empty where the model cannot tell."""
    if familiarity is None:
        return ""
    if familiarity["note"]:
        return str(familiarity["note"])
    found = familiarity["unfamiliar"]
    said = (
        f"{familiarity['n_unfamiliar']} of {count_things(familiarity['n_items'], 'image')} "
        f"({write_percent(found['value'])}) are unfamiliar, their features beyond the limit that "
        f"{write_percent(1 - familiarity['share'])} of images like those of development pass."
    )
    if (parts := familiarity["quantiles"]["of_limit"]) is not None:
        said += f" The median image lies at {parts[2]:.2f} of the limit, one in twenty beyond {parts[4]:.2f} of it."
    return said


def draw_shift(name: str, quantiles: Mapping[str, Any], caption: Caption) -> str:
    """Draw the share of patients up to each probability, of development and of new data, and return it as SVG text.

    ``quantiles`` holds ``levels`` and the probabilities there of ``development`` and ``external``.
    """
    with open_figure(WIDTH_IN, 0.8 * WIDTH_IN) as figure:
        axes = figure.add_subplot(
            xlabel=f"Probability, mean of a patient: {shorten(name, 26)}", ylabel="Share of patients up to it"
        )
        for part, (colour, dashes) in zip(_PARTS, LINES, strict=False):
            label = "development, out of fold" if part == "development" else "external"
            axes.plot(quantiles[part], quantiles["levels"], color=colour, linestyle=dashes, label=label, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="lower right")
        return to_svg(figure, caption)
