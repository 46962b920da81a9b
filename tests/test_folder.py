"""The run folder: one run's state, and nothing of another's."""

from __future__ import annotations

import json

import numpy as np
import pytest

from thawline.errors import OutputError
from thawline.folder import OWN_FILES, OWN_FOLDERS, open_run

SPEC = {
    "schema": 1,
    "thawline": "0.1.0",
    "seed": 0,
    "options": {"seed": 0, "head": None, "weights": None},
    "items": "abc",
    "weights": {"name": "efficientnet_lite0", "sha256": "def"},
    "environment": {"python": "3.11", "cores": 2},
}


def test_a_new_folder_gets_the_spec_and_an_empty_journal(tmp_path):
    run = tmp_path / "runs" / "first"
    journal = open_run(run, SPEC, resume=True)
    assert json.loads((run / "spec.json").read_text("utf-8")) == SPEC
    assert journal.run == run
    assert not journal.path.exists()


@pytest.mark.parametrize("left_over", [(), (".writing-0123",)])
def test_an_empty_folder_is_taken(tmp_path, left_over):
    for name in left_over:
        (tmp_path / name).write_text("from a killed run")
    open_run(tmp_path, SPEC, resume=True)
    assert (tmp_path / "spec.json").is_file()


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path, resume):
    for name in ("holiday.jpg", "metrics.json"):
        (tmp_path / name).write_text("precious")
    with pytest.raises(OutputError, match=r"expected a new or empty folder, found holiday\.jpg, metrics\.json; choose"):
        open_run(tmp_path, SPEC, resume=resume)
    assert (tmp_path / "metrics.json").read_text() == "precious"
    assert not (tmp_path / "spec.json").exists()


def test_the_same_run_goes_on(tmp_path):
    open_run(tmp_path, SPEC, resume=True).record("read", {"n": 1}, 0.5)
    assert open_run(tmp_path, SPEC, resume=True).find("read") == {"n": 1}


@pytest.mark.parametrize(
    "changes", [{"environment": {"python": "3.13", "cores": 64}}, {"thawline": "0.2.0"}, {"schema": 2}]
)
def test_another_environment_is_no_other_run(tmp_path, changes):
    open_run(tmp_path, SPEC, resume=True).record("read", {}, 0.5)
    assert "read" in open_run(tmp_path, {**SPEC, **changes}, resume=True)


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"options": {**SPEC["options"], "seed": 1, "head": "svm"}},
            r"\(seed: 0 there, 1 now; head: None there, 'svm' now\)",
        ),
        ({"items": "xyz"}, r"\(of other items\)"),
        ({"weights": {"name": "resnet18"}, "items": "x"}, r"\(of other items, weights\)"),
    ],
)
def test_another_run_is_refused_and_left_alone(tmp_path, changes, said, resume):
    open_run(tmp_path, SPEC, resume=True).record("read", {"n": 1}, 0.5)
    with pytest.raises(OutputError, match=f"holds another run {said}; choose another folder"):
        open_run(tmp_path, {**SPEC, **changes}, resume=resume)
    assert open_run(tmp_path, SPEC, resume=True).find("read") == {"n": 1}


@pytest.mark.parametrize("text", ["", "no json", "[1]", "5", '{"options": 7, "items": "abc"}'])
def test_a_damaged_spec_is_refused(tmp_path, text):
    open_run(tmp_path, SPEC, resume=True)
    (tmp_path / "spec.json").write_text(text)
    with pytest.raises(OutputError, match="choose another"):
        open_run(tmp_path, SPEC, resume=True)


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_refused_before_its_first_unit_leaves_the_folder_free(tmp_path, resume):
    open_run(tmp_path, SPEC, resume=True)
    corrected = {**SPEC, "options": {**SPEC["options"], "skip_unreadable": True}}
    open_run(tmp_path, corrected, resume=resume)
    assert json.loads((tmp_path / "spec.json").read_text("utf-8")) == corrected


def test_starting_over_removes_what_a_run_wrote_and_nothing_else(tmp_path):
    journal = open_run(tmp_path, SPEC, resume=True)
    journal.record("read", {"x": np.arange(3)}, 0.5)
    for name in OWN_FILES:
        (tmp_path / name).touch()
    for name in OWN_FOLDERS:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "file").touch()
    (tmp_path / "my notes.txt").write_text("mine")
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    journal = open_run(tmp_path, SPEC, resume=False)
    assert "read" not in journal
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my notes.txt", "spec.json"]
    assert json.loads((tmp_path / "spec.json").read_text("utf-8")) == SPEC


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        open_run(tmp_path / "run", SPEC, resume=True)
