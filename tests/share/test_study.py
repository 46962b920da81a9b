"""The study file: what is stated is kept as it is said, and what is wrong in it is named."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from thawline.errors import OptionError
from thawline.share.study import PRICES, STATED, Study, find_beside, find_study, keep_study, read_study, write_template


def write(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text, "utf-8")
    return path


def test_what_is_stated_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '[study]\nethics = """Board of the north,\n 12/2026"""\ntitle = ""\n'
        '[cost]\nprice_per_hour = 2\nprice_per_kwh = 0.3\ncurrency = "EUR"\n',
    )
    assert read_study(path) == Study({"ethics": "Board of the north, 12/2026"}, 2.0, 0.3, "EUR")


def test_the_template_states_nothing_and_asks_for_everything(tmp_path: Path) -> None:
    text = write_template()
    assert read_study(write(tmp_path, text)) == Study()
    assert list(tomllib.loads(text)["study"]) == list(STATED)
    assert all(meaning in text for meaning in (*STATED.values(), *PRICES.values()))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[study]\nethic = 'x'", "ethic in [study] is not known; did you mean ethics?"),
        ("[study]\nzzz = 'x'", "zzz in [study] is not known; expected some of title, background"),
        ("[studies]\nethics = 'x'", "[studies] is not known; did you mean study?"),
        ("ethics = 'x'", "expected tables [study] and [cost], found 'ethics' outside"),
        ("[study]\nethics = 7", "ethics: expected a text in quotes, found 7"),
        ("[cost]\nprice_per_hour = '2'", "price_per_hour: expected a price of 0 or more, such as 0.3; found '2'"),
        ("[cost]\nprice_per_kwh = -1", "found -1"),
        ("[cost]\nprice_per_kwh = nan", "found nan"),
        ("[cost]\nprice_per_hour = true", "found True"),
        ("[study\n", "expected a study file"),
        ("\udcff", "expected a study file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(OptionError) as error:
        read_study(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--study-template"):
        read_study(tmp_path / "none.toml")


def test_it_is_kept_in_the_run_folder_only_once_it_is_right(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    assert find_study(run) == Study()
    keep_study(run, write(tmp_path, "[study]\ntitle = 'one'"))
    assert find_study(run).stated == {"title": "one"}
    with pytest.raises(OptionError):
        keep_study(run, write(tmp_path, "[study]\ntitel = 'two'"))
    assert find_study(run).stated == {"title": "one"}
    keep_study(run, run / "study.toml")
    assert find_study(run).stated == {"title": "one"}


def test_it_is_found_in_the_folder_of_the_data_or_beside_their_file(tmp_path: Path) -> None:
    assert find_beside(tmp_path) is None
    path = write(tmp_path, "[study]\n")
    assert find_beside(tmp_path) == path
    assert find_beside(tmp_path / "films.npz") == path


def test_prices() -> None:
    assert Study().price(3600, 1000) is None
    assert Study(price_per_hour=2.0, price_per_kwh=0.5).price(1800, 4000) == pytest.approx(3.0)
    assert Study(price_per_kwh=0.5).price(1800, None) == 0
