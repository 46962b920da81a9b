"""Patients under a key: the same for a site, another for every other, and nothing of the id in it."""

from __future__ import annotations

import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thawline.data import identity
from thawline.errors import OutputError

ids = st.text(min_size=1, max_size=20)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "site"))
    return tmp_path / "site"


def test_a_site_keeps_its_secret(site: Path) -> None:
    first = identity.read_secret()
    assert len(first) == 32
    assert identity.read_secret() == first
    assert [path.name for path in site.iterdir()] == ["site_secret"]
    if sys.platform != "win32":
        assert stat.S_IMODE(identity.secret_path().stat().st_mode) == 0o600


def test_two_sites_have_two_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = set()
    for name in ("one", "other"):
        monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / name))
        secrets.add(identity.key_patient(identity.read_secret(), "17"))
    assert len(secrets) == 2


def test_processes_that_begin_together_agree(site: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: identity.read_secret(), range(16)))) == 1
    assert [path.name for path in site.iterdir()] == ["site_secret"]


@pytest.mark.parametrize("content", ["", "abc", "00" * 31, "zz" * 32, "\xff" * 10])
def test_a_damaged_secret_is_never_replaced(site: Path, content: str) -> None:
    site.mkdir()
    identity.secret_path().write_text(content, "utf-8")
    with pytest.raises(OutputError, match="should hold the secret of this site, 64 hexadecimal digits, and does not"):
        identity.read_secret()
    assert identity.secret_path().read_text("utf-8") == content


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        identity.read_secret()


@pytest.mark.slow
@given(ids, ids)
def test_keys_are_the_patients_own(one: str, other: str) -> None:
    secret = b"s" * 32
    assert (identity.key_patient(secret, one) == identity.key_patient(secret, other)) == (one == other)
    assert identity.key_patient(secret, one) == identity.key_patient(secret, one)
    assert identity.key_patient(secret, one) != identity.key_patient(b"t" * 32, one)


def test_ids_of_two_issuers_do_not_meet() -> None:
    keys = {identity.key_patient(b"s" * 32, *names) for names in (("17", ""), ("17", "A"), ("A17", ""), ("7", "A1"))}
    assert len(keys) == 4


def test_a_site_has_a_key_of_its_own_kind():
    keys = {identity.key_site(secret, name) for secret in (b"s" * 32, b"t" * 32) for name in ("Clinic", "Clinic B", "")}
    assert len(keys) == 6
    assert not [key for key in keys if "Clinic" in key or len(key) != 9]
    assert identity.key_site(b"s" * 32, "17")[1:] not in identity.key_patient(b"s" * 32, "17")
