"""A SQLite file that can't be opened is reported as that, not as one that was deleted."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from duroxide_django import ConfigurationError
from duroxide_django.storage.faults import DatabaseFile


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("missing/db.sqlite3", "does not exist and can not be created"),
        ("file/db.sqlite3", "does not exist and can not be created"),
        ("folder", "it is a folder"),
    ],
)
def test_is_named_with_the_cure(tmp_path, place, why):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    path = tmp_path / place
    file = DatabaseFile(SimpleNamespace(vendor="sqlite", settings_dict={"NAME": str(path)}))
    with pytest.raises(ConfigurationError, match=why) as caught:
        file.check()
    assert str(path) in str(caught.value)
    assert "NAME in DATABASES" in str(caught.value)
