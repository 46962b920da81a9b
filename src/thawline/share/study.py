"""What only people know of a study, stated in `study.toml`: its purpose, reference standard, ethics, and what work costs.

It lies in the run folder and changes nothing of the run: stated later, it joins the next report.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thawline.errors import OptionError
from thawline.files import write_atomic

FILE = "study.toml"
STATED = {  # key of the table [study]: what to state, in a sentence or two
    "title": "title of the study",
    "background": "why a model is wanted here, and what is done without one",
    "objectives": "what the study set out to find",
    "intended_use": "what the model is meant for, at which point of the patient's way",
    "users": "who is to use it, and what they must be able to do",
    "target_population": "the patients it is meant for",
    "inequalities": "known differences in health or care between groups of these patients",
    "design": "retrospective or prospective, and how patients were gathered: consecutive, by chance, at convenience",
    "data_source": "where the images come from",
    "setting": "kind, number and place of the hospitals",
    "dates": "from when to when patients were gathered",
    "eligibility": "who was to be included and who was not",
    "treatments": "treatments before the image that matter, if any",
    "demographics": "age, sex and severity of the patients in each part, or where this is told",
    "acquisition": "devices and protocols that made the images",
    "deidentification": "how identities were removed",
    "missing_data": "what was missing, and what was done about it",
    "reference_standard": "how the true label of an item was found",
    "reference_rationale": "why it was found so, and what may be wrong with it",
    "readers": "who set the labels: how many, and their training",
    "blinding": "what those who set the labels knew of the images, and of other results",
    "reader_agreement": "how far they agreed with one another and with themselves",
    "sample_size_rationale": "why so many patients",
    "ethics": "which board approved it, with its number",
    "consent": "how patients consented, or who waived it",
    "involvement": "how patients and the public took part in the study",
    "registration": "where the study is registered, with its number",
    "protocol": "where the protocol can be read",
    "availability": "where data, code and model can be had, and on which terms",
    "external_test": "results on data of other places",
    "funding": "who paid, and what say they had",
    "conflicts": "interests of the authors",
    "limitations": "limits beyond those that the report names",
    "implications": "what follows for practice, and what is to be done next",
}
PRICES = {  # key of the table [cost]: what it is
    "price_per_hour": "price of an hour of this machine",
    "price_per_kwh": "price of a kWh",
    "currency": 'unit of both, such as "EUR"',
}
TABLES: Mapping[str, Mapping[str, str]] = {"study": STATED, "cost": PRICES}


@dataclasses.dataclass(frozen=True)
class Study:
    """What is stated, by key of `STATED`, and prices; what is not stated is absent, or None."""

    stated: Mapping[str, str] = dataclasses.field(default_factory=dict)
    price_per_hour: float | None = None
    price_per_kwh: float | None = None
    currency: str = ""

    def price(self, seconds: float, energy_wh: float | None) -> float | None:
        """Return what so much time and energy costs, None where no price is stated."""
        if self.price_per_hour is None and self.price_per_kwh is None:
            return None
        return seconds / 3600 * (self.price_per_hour or 0.0) + (energy_wh or 0.0) / 1000 * (self.price_per_kwh or 0.0)


def read_study(path: Path) -> Study:
    """Read a study file. Raises OptionError that names what is wrong in it, and the nearest of what could be meant."""
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(
            f"{path}: expected a study file, found {error}; `thawline report RUN --study-template` prints an empty one"
        ) from error
    for name, table in data.items():
        if not isinstance(table, Mapping):
            raise OptionError(
                f"{path}: expected tables {_list_tables()}, found {name!r} outside; put it below its [table]"
            )
        _check_known(path, f"[{name}]", name, list(TABLES))
        for key in table:
            _check_known(path, f"{key} in [{name}]", key, list(TABLES[name]))
    stated = {key: _take_text(path, key, value) for key, value in data.get("study", {}).items()}
    cost = data.get("cost", {})
    return Study(
        {key: stated[key] for key in STATED if stated.get(key)},
        _take_price(path, cost, "price_per_hour"),
        _take_price(path, cost, "price_per_kwh"),
        _take_text(path, "currency", cost.get("currency", "")),
    )


def _list_tables() -> str:
    return " and ".join(f"[{name}]" for name in TABLES)


def _check_known(path: Path, what: str, name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(known)}"
    raise OptionError(f"{path}: {what} is not known; {meant}")


def _take_text(path: Path, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise OptionError(f"{path}: {key}: expected a text in quotes, found {value!r}")
    return " ".join(value.split())


def _take_price(path: Path, cost: Mapping[str, Any], key: str) -> float | None:
    value = cost.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise OptionError(f"{path}: {key}: expected a price of 0 or more, such as 0.3; found {value!r}")
    return float(value)


def find_study(run: Path) -> Study:
    """Return what is stated in the run folder; nothing where there is no study file. Raises OptionError as `read_study`."""
    return read_study(run / FILE) if (run / FILE).is_file() else Study()


def find_beside(data: Path) -> Path | None:
    """Return the study file that lies in the folder of the data, or beside their file; None where there is none."""
    path = (data if data.is_dir() else data.parent) / FILE
    return path if path.is_file() else None


def check_study(path: Path | None, data: Path) -> Path | None:
    """Return the study file that is given, else the one beside the data, if any, once it was read: not after hours of work.

    Raises OptionError as `read_study`.
    """
    path = path or find_beside(data)
    if path is not None:
        read_study(path)
    return path


def keep_study(run: Path, path: Path | None) -> None:
    """Copy a study file, if any, into the run folder once it is known to be one. Raises OptionError, or OutputError."""
    if path is None:
        return
    read_study(path)
    if path.resolve() != (run / FILE).resolve():
        write_atomic(run / FILE, path.read_bytes())


def write_template() -> str:
    """Return a study file with nothing stated yet: each key with a comment that says what is wanted."""
    lines = [
        "# What only you know of the study. What stays empty reads as not stated in the report.",
        "# Name no patient here: the texts go into the report as they are.",
        "",
        "[study]",
    ]
    for key, meaning in STATED.items():
        lines += [f"# {meaning}", f'{key} = ""']
    lines += ["", "[cost]"]
    for key, meaning in PRICES.items():
        lines += [f"# {meaning}", f'{key} = ""' if key == "currency" else f"# {key} = 0.0"]
    return "\n".join(lines) + "\n"
