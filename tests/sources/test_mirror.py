"""DATA_MIRROR: relative to the repository, absolute, unset."""

from pathlib import Path

import pytest

from lib.config import ROOT
from lib.sources import mirror


@pytest.mark.parametrize(
    ("named", "expected"),
    [("/srv/data", Path("/srv/data")), ("../shared/data", ROOT / "../shared/data"), ("", None)],
)
def test_relative_to_the_repository_absolute_or_none(tmp_path, monkeypatch, named, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_MIRROR", named)
    assert mirror.folder() == expected
    assert mirror.folder("gtex") == (expected / "gtex" if expected else None)
    here = tmp_path / "gtex"
    assert mirror.search_folders(here, "gtex") == ((here, expected / "gtex") if expected else (here,))
    monkeypatch.delenv("DATA_MIRROR")
    assert mirror.folder() is None
