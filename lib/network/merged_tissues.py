"""Groups of tissues that look alike under the microscope, merged before accuracies are computed."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import numpy as np

from lib.errors import InputError

# The paper's groups of histologically similar tissues (39 tissues to 33), by their GTEx names (SMTSD).
MERGED_GTEX: dict[str, tuple[str, ...]] = {
    "Artery": ("Artery - Aorta", "Artery - Coronary", "Artery - Tibial"),
    "Colon": ("Colon - Sigmoid", "Colon - Transverse"),
    "Esophagus - Junction or Muscularis": tuple(
        f"Esophagus - {part}" for part in ("Gastroesophageal Junction", "Muscularis")
    ),
    "Heart": ("Heart - Atrial Appendage", "Heart - Left Ventricle"),
    "Skin": ("Skin - Not Sun Exposed (Suprapubic)", "Skin - Sun Exposed (Lower leg)"),
}


def merged_groups(own: Mapping[str, Sequence[str]], tissues: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The paper's groups and a cohort's own, every member of which must name one of `tissues`.

    Raises
    ------
    ValueError
        A member of the cohort's own groups names no tissue (the nearest are given), or several.
    """
    names = _normalised(tissues)
    for group, members in own.items():
        for member in members:
            if not _named_by(member, names):
                near = get_close_matches(str(member), names, n=3, cutoff=0.4) or sorted(names)[:3]
                raise InputError(
                    f"merged_tissues: {member!r} of {group!r} names no tissue of the samples, or several; "
                    f"nearest: {near}"
                )
    return MERGED_GTEX | {group: tuple(members) for group, members in own.items()}


def merge_tissues(
    labels: Iterable[str],
    groups: Mapping[str, Sequence[str]] = MERGED_GTEX,
    tissues: Iterable[str] | None = None,
) -> np.ndarray:
    """Labels with each tissue of a group replaced by the group's name, others unchanged; array of str.

    A member names the tissue of the same spelling, ignoring case, spaces and the kind of dash; failing that,
    the only one that differs by a final "(...)". A member that names none is ignored.

    Parameters
    ----------
    tissues : the names among which members are looked up; default: the labels

    Raises
    ------
    ValueError
        A tissue in two groups.
    """
    labels = [str(label) for label in labels]
    names = _normalised(labels if tissues is None else tissues)
    group_of: dict[str, str] = {}
    for group, members in groups.items():
        for tissue in (tissue for member in members for tissue in _named_by(member, names)):
            if group_of.setdefault(tissue, group) != group:
                raise InputError(f"{tissue!r} is in two groups: {group_of[tissue]!r} and {group!r}")
    return np.array([group_of.get(label, label) for label in labels], dtype=object)


def _normalised(tissues: Iterable[str]) -> dict[str, str]:
    return {str(tissue): _normalise(tissue) for tissue in tissues}


def _normalise(label: str) -> str:
    """A tissue name without differences in the kind of dash, spaces and case."""
    return re.sub(r"\s*[-\u2010-\u2015\u2212]\s*", "-", " ".join(str(label).split())).casefold()


def _without_brackets(name: str) -> str:
    """A normalised name without a final "(...)": the paper omits GTEx's "(Lower leg)"."""
    return re.sub(r"\s*\([^)]*\)$", "", name)


def _named_by(member: str, names: Mapping[str, str]) -> list[str]:
    """The tissues that a group's member names; `names` has the normalised name of each."""
    member = _normalise(member)
    same = [tissue for tissue, name in names.items() if name == member]
    if same:
        return same
    stem = _without_brackets(member)
    loose = [tissue for tissue, name in names.items() if _without_brackets(name) == stem]
    return loose if len({names[tissue] for tissue in loose}) == 1 else []
