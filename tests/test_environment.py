"""environment.yml, pyproject.toml and requirements.lock tell of one environment."""

import re
import tomllib

import yaml
from packaging.requirements import Requirement

from lib.config import ROOT


def locked() -> dict[str, str]:
    """Versions the lock gives to Python 3.11 (the one of environment.yml)."""
    versions = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)==(\S+)(?: ; (.*))?$", line)
        if (
            match
            and "python_full_version >= '3.12'" not in line
            and "python_full_version >= '3.13'" not in line
        ):
            versions.setdefault(match[1].lower(), match[2])
    return versions


def wanted() -> list[Requirement]:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, extras = content["project"], content["project"]["optional-dependencies"]
    texts = project["dependencies"] + content["dependency-groups"]["dev"]
    texts += [text for extra in extras.values() for text in extra]
    return [Requirement(text) for text in texts]


def test_lock_satisfies_pyproject():
    versions = locked()
    for requirement in wanted():
        assert requirement.name in versions, f"{requirement.name} is not locked: make lock"
        assert requirement.specifier.contains(versions[requirement.name]), requirement


def test_environment_yml_gives_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert "python=3.11" in environment["dependencies"]
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert "--constraint requirements.lock" in pip
    assert "--editable ." in pip
    pinned = {line.split("==")[0]: line.split("==")[1] for line in pip if "==" in line}
    versions = locked()
    assert pinned == {r.name: versions[r.name] for r in wanted()}, (
        "environment.yml lags behind requirements.lock"
    )


def test_gitignore_patterns_are_anchored():
    """The usual Python template's unanchored `lib/` would hide the library."""
    for line in (ROOT / ".gitignore").read_text().split():
        assert line.startswith("/") or line in {"__pycache__/", ".ipynb_checkpoints/", "*.egg-info/"}, line
