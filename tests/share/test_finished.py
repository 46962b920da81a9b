"""A run folder read as new data are held against it."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from thawline.errors import ModelError
from thawline.share.finished import read_finished

write_run = runpy.run_path(str(Path(__file__).with_name("test_report.py")))["write_run"]
SPLITS = """number,item,patient,label,split,fold,pixels
0,a.png,P1,x,development,0,aa
1,b.png,item:b.png,x,development,1,bb
2,c.png,P2,x,test,,cc
3,d.png,P3,x,left_out,,
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder: Path = write_run(tmp_path / "run", ("COVID", "NonCOVID"), n_patients=60)
    (folder / "splits.csv").write_text(SPLITS, "utf-8")
    return folder


def test_named_patients_and_images_of_the_parts_are_known(run: Path) -> None:
    found = read_finished(run)
    assert found.patients == {"development": {"P1"}, "test": {"P2"}}
    assert found.pixels == {"development": {"aa", "bb"}, "test": {"cc"}}
    for part in ("development", "test"):
        probabilities, groups = found.predicted[part]
        assert probabilities.shape == (len(groups), 2)
        assert len(groups)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_a_run_that_kept_no_digests_knows_no_images(run: Path) -> None:
    (run / "splits.csv").write_text("\n".join(line.rpartition(",")[0] for line in SPLITS.splitlines()), "utf-8")
    assert read_finished(run).pixels is None


def test_what_is_no_finished_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"found no metrics\.json in it"):
        read_finished(tmp_path)
    (run / "splits.csv").unlink()
    with pytest.raises(ModelError, match=r"splits\.csv, which does not exist"):
        read_finished(run)
