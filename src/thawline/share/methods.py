"""The methods of a run as a paragraph to paste into a paper: past tense, from what the run's files say and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from thawline.data.schemes import SITE, TIME, take_scheme
from thawline.share.rungs import translate_rung
from thawline.share.study import Study
from thawline.share.words import count_things, format_plain, put_in_words
from thawline.types import MULTILABEL

SHOWN = 12  # hexadecimal digits of a digest
ASPECTS = {
    "squash": "stretched to a square",
    "letterbox": "padded to a square",
    "crop": "cropped to a square",
}
MAPS = {
    "temperature": "temperature scaling",
    "platt": "Platt scaling",
    "beta": "beta calibration",
    "isotonic": "isotonic regression",
}


def write_methods(
    summary: Mapping[str, Any],
    choices: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    spec: Mapping[str, Any],
    study: Study,
) -> str:
    """Return the paragraph. ``choices`` are the plan's values by name; what a plan does not hold is not told."""
    sentences = [
        *tell_data(summary, study),
        *tell_split(summary["data"], choices, fingerprint, spec["options"]),
        *tell_inputs(summary["data"], choices),
        *tell_network(summary, choices, spec),
        *tell_selection(summary, choices),
        *tell_judging(summary, choices),
        *tell_software(spec),
    ]
    return " ".join(sentences)


def tell_data(summary: Mapping[str, Any], study: Study) -> list[str]:
    """Return items, patients, classes, and what was left out."""
    data, flow = summary["data"], summary["flow"]
    several = summary["task"]["kind"] == MULTILABEL
    counts = "; ".join(f"{row['name']}, {row['counts'][-1]['n_items']}" for row in data["rows"])
    who = f" of {count_things(data['n_patients'], 'patient')}" if data["patients_given"] else ""
    said = [
        f"The data were {count_things(data['n_items'], 'item')}{who} "
        f"({'labels, any number an item' if several else 'by class'}: {counts})."
    ]
    if source := study.stated.get("data_source"):
        said.append(f"Source of the data: {source.rstrip('.')}.")
    if standard := study.stated.get("reference_standard"):
        said.append(f"Reference standard: {standard.rstrip('.')}.")
    if flow["left_out"]:
        reasons = ", ".join(f"{row['n_items']} {row['reason']}" for row in flow["left_out"])
        said.append(
            f"Of {count_things(flow['n_found'], 'item')} found, {flow['n_left_out']} were left out ({reasons})."
        )
    return said


def tell_split(
    data: Mapping[str, Any],
    choices: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return how development and test came about; ``options`` are those of the run."""
    given = options or {}
    (kind, column, value), (by_site, site, _) = (take_scheme(given.get(name)) for name in ("test", "validation"))
    if data["split_given"]:
        said = "The split into development and test parts was the one given with the data"
    elif kind == TIME:
        said = f"The latest patients by {column} were the test part, so that no patient stood in both parts"
    elif kind == SITE:
        said = f"Patients with {column} {value} were the test part, so that no patient stood in both parts"
    else:
        said = "A test part was drawn at random by patient, stratified by class, so that no patient stood in both parts"
    if not data["patients_given"]:
        said += "; no patients were known, so that each item counted as one"
    n_folds = choices.get("folds", fingerprint.get("n_folds"))
    how = f"grouped by patient, each a {site} that the others did not have" if by_site else "grouped by patient"
    return [f"{said}.", *([f"Development used {n_folds} folds {how}."] if n_folds else [])]


def tell_inputs(data: Mapping[str, Any], choices: Mapping[str, Any]) -> list[str]:
    """Return how pixels became the input of the network."""
    size, aspect, how = (choices.get(name) for name in ("size_px", "aspect", "interpolation"))
    if size is None:
        return []
    steps = f"Images were resampled to {size} × {size} pixels"
    steps += f" ({how} interpolation)" if how else ""
    steps += f" and {ASPECTS[aspect]}" if aspect in ASPECTS else ""
    said = [f"{steps}."]
    if data["wide_range"]:
        low, high = data["wide_range"]
        said.append(f"Images of more than 8 bits were scaled from {low:g} (black) to {high:g} (white).")
    return said


def tell_network(summary: Mapping[str, Any], choices: Mapping[str, Any], spec: Mapping[str, Any]) -> list[str]:
    """Return backbone, weights, and what of it was trained."""
    chosen = {fact["name"]: fact["value"] for fact in summary["chosen"]}
    if "Backbone" not in chosen:
        return [
            "Handcrafted features (histograms of oriented gradients, local binary patterns) were used, without a network."
        ]
    weights = _take_weights(spec.get("weights") or {}, chosen["Backbone"])
    about = [
        f"{label} {weights[key][:SHOWN] if key == 'sha256' else weights[key]}"
        for key, label in (
            ("pretrained_on", "trained on"),
            ("source", "source:"),
            ("licence", "licence:"),
            ("sha256", "SHA-256"),
        )
        if weights.get(key)
    ]
    said = [
        f"The network was {chosen['Backbone']}, with pretrained weights{' (' + '; '.join(about) + ')' if about else ''}."
    ]
    said.append(f"Strategy: {chosen['Strategy']}; thaw line: {chosen['Thaw line']}; head: {chosen['Head']}.")
    said.append(f"Fine-tuning ratio: {chosen['Fine-tuning ratio']}. The final model was this: {chosen['Delivered']}.")
    recipe = choices.get("recipe") or {}
    if summary["training"] and recipe.get("epochs"):
        said.append(
            f"Training took AdamW with a learning rate of {recipe['learning_rate']:g}, up to {recipe['epochs']} epochs and "
            f"batches of {recipe['batch_items']} items; learning rate and epoch were chosen on patients held back."
        )
    return said


def _take_weights(weights: Mapping[str, Any], backbone: str) -> Mapping[str, Any]:
    """Return the description of the chosen backbone's weights; of several that raced, the spec has one by name."""
    own = weights.get(backbone)
    return own if isinstance(own, Mapping) else weights


def tell_selection(summary: Mapping[str, Any], choices: Mapping[str, Any]) -> list[str]:
    """Return how the rung was chosen among those tried."""
    n_rungs = len(summary["ladder"])
    said = [f"{count_things(n_rungs, 'candidate')} {'was' if n_rungs == 1 else 'were'} compared on the same folds."]
    if rung := choices.get("rung"):
        said.append(
            "Chosen was the first, in an order fixed beforehand, whose log-loss lay within one standard error, paired by "
            f"patient, of the best: {translate_rung(rung)}."
        )
    return said


def tell_judging(summary: Mapping[str, Any], choices: Mapping[str, Any]) -> list[str]:
    """Return calibration, threshold, prediction sets, intervals, and how the test part was used."""
    used, decision = summary["calibration"]["map"], summary["decision"]
    fitted = f"Probabilities passed {MAPS.get(used, used)}, fitted on out-of-fold predictions."
    said = ["Probabilities were left as the model gives them." if used == "none" else fitted]
    if decision is not None:
        chosen = decision["choice"][0].removeprefix("The threshold was ") if decision["choice"] else "set beforehand."
        said.append(f"The threshold of {decision['threshold']:.3g} was {chosen}")
    if coverage := choices.get("coverage"):
        said.append(f"Conformal prediction sets were made for a coverage of {format_plain(coverage)}.")
    if (lesions := summary["lesions"]) is not None:
        count = f"{count_things(lesions['n_lesions'], 'lesion')} of {count_things(lesions['n_patients'], 'patient')}"
        left = f", without {lesions['n_left_out']} whose images differ in label" if lesions["n_left_out"] else ""
        said.append(f"Figures per lesion are of the mean probabilities of a lesion's images ({count}{left}).")
    kinds = dict.fromkeys(re.split("[,;]", method)[0] for method in summary["methods"])
    said.append(
        f"Intervals treat patients as what is sampled ({', '.join(kinds)})." if kinds else "There are no intervals."
    )
    if any(part["key"] == "test" for part in summary["parts"]):
        said.append("All choices were written down before the test part was opened; the final model predicted it once.")
    else:
        said.append("The test part was not opened; figures are out of fold.")
    return said + _tell_nested(summary)


def _tell_nested(summary: Mapping[str, Any]) -> list[str]:
    """Return how nested cross-validation was done, where it was."""
    nested = summary["nested"]
    if nested is None:
        return []
    repeats = f", repeated {nested['n_repeats']} times with other parts" if nested["n_repeats"] > 1 else ""
    main = " It makes the main figures." if summary["part"] == "nested" else ""
    return [
        f"In nested cross-validation each of {nested['n_folds']} parts of the patients was put aside in turn{repeats}, and "
        f"all choices (input, candidate, calibration, threshold) were made anew on the others before it was predicted.{main}"
    ]


def tell_software(spec: Mapping[str, Any]) -> list[str]:
    """Return versions and seed."""
    environment = spec["environment"]
    packages = ", ".join(f"{put_in_words(name)} {version}" for name, version in environment.get("packages", {}).items())
    python = f"Python {environment['python']}" if "python" in environment else "Python"
    return [
        f"Software: Thawline {spec['thawline']}, {python}{', ' + packages if packages else ''}; seed {spec['seed']}."
    ]
