"""Patients, and sites, of DICOM files under a key: the same in all runs of a site, and unreadable to everybody else.

The key is a secret of the site that lies in the user's data folder of Thawline (``THAWLINE_DATA`` moves it), outside all
runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from thawline.errors import OutputError
from thawline.files import said_plainly
from thawline.ledger import data_path

SECRET_BYTES = 32


def secret_path() -> Path:
    """Where the secret of this site lies."""
    return data_path() / "site_secret"


def read_secret() -> bytes:
    """Return the secret of this site, made where there is none yet. Raises OutputError where it is damaged or not kept."""
    path = secret_path()
    with said_plainly(path.parent):
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            _make_secret(path)
        text = path.read_text("ascii", errors="replace").strip()
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise OutputError(
            f"{path} should hold the secret of this site, {2 * SECRET_BYTES} hexadecimal digits, and does not; put back a "
            "copy of it, or remove it, and patients of DICOM files get other keys than in earlier runs"
        )
    return secret


def _make_secret(path: Path) -> None:
    """Write a new secret whole, for its owner only; where another process was first, that one's stays."""
    unfinished = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        with open(unfinished, "x", encoding="ascii", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(f"{secrets.token_hex(SECRET_BYTES)}\n")
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def key_patient(secret: bytes, patient: str, issuer: str = "") -> str:
    """Return the key of a patient (HMAC-SHA256, RFC 2104, of 64 bits): ids of several issuers do not meet."""
    name = f"{len(issuer)} {issuer}{patient}".encode()
    return f"P{hmac.new(secret, name, hashlib.sha256).hexdigest()[:16]}"


def key_lesion(secret: bytes, patient: str, lesion: str) -> str:
    """Return the key of a lesion, of 32 bits, among those of a patient."""
    name = f"lesion {len(patient)} {patient}{lesion}".encode()
    return f"L{hmac.new(secret, name, hashlib.sha256).hexdigest()[:8]}"


def key_site(secret: bytes, name: str) -> str:
    """Return the key of an institution or a station, of 32 bits: enough to tell the few of a data set apart."""
    return f"S{hmac.new(secret, f'site {name}'.encode(), hashlib.sha256).hexdigest()[:8]}"
