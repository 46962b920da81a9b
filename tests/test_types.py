"""The small records that modules share: what they work out of their fields, and what they are rebuilt from."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thawline.learn.ladder import Rung
from thawline.types import Augmentation, Contract, Hardware, Reading, Recipe


@settings(deadline=None, max_examples=50)
@given(n_items=st.integers(1, 5000), batch_items=st.integers(1, 300))
def test_an_epoch_has_as_few_steps_as_its_batches_allow(n_items, batch_items):
    n_steps = Recipe(batch_items=batch_items).count_steps(n_items)
    largest = [len(np.array_split(np.arange(n_items), n)[0]) for n in (n_steps, max(n_steps - 1, 1))]
    assert largest[0] <= batch_items
    assert n_steps == 1 or largest[1] > batch_items


@settings(deadline=None, max_examples=20)
@given(
    turn=st.floats(0, 180),
    scale=st.tuples(st.floats(0.5, 1), st.floats(1, 2)),
    flips=st.booleans(),
    hue=st.floats(0, 1),
)
def test_an_augmentation_survives_as_json(turn, scale, flips, hue):
    made = Augmentation(turn_deg=turn, scale=scale, flip_sides=flips, hue=hue)
    again = Augmentation.from_json(json.loads(json.dumps(dataclasses.asdict(made))))
    assert again == made
    assert hash(again) == hash(made)  # a list for the scale would have none


def test_an_augmentation_has_its_fields_and_no_others():
    whole = dataclasses.asdict(Augmentation())
    with pytest.raises(KeyError, match="scale"):
        Augmentation.from_json({name: value for name, value in whole.items() if name != "scale"})
    with pytest.raises(TypeError, match="sparkle"):
        Augmentation.from_json({**whole, "sparkle": 1.0})


@pytest.mark.parametrize(("cuda", "device"), [(None, "cpu"), ("an accelerator", "cuda")])
def test_networks_run_on_an_accelerator_where_there_is_one(cuda, device):
    assert Hardware(2, 4096, cuda=cuda).device == device


def test_a_fold_is_named_after_its_rung():
    rung = Rung(2, "fine_tuning", line="blocks.5")
    assert rung.fold_unit(3) == f"{rung.unit} fold 3" == "rung 2 fine_tuning blocks.5 fold 3"


@pytest.mark.parametrize("reading", [Reading(), Reading(("lung",)), Reading(("lung", "bone", "40/400"), "middle")])
def test_a_contract_survives_as_json_and_keeps_its_key_where_nothing_is_special(reading):
    made = Contract(224, (0.5,) * 3, (0.5,) * 3, reading=reading)
    data = json.loads(json.dumps(made.to_json()))
    assert Contract.from_json(data) == made
    assert hash(Contract.from_json(data)) == hash(made)
    assert ("reading" in data) == (reading != Reading())
