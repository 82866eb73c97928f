"""A pair of the panel as files: its pictures as PDF and PNG, and the Python code that makes them again."""

import re
from pathlib import Path

from lib.explore import correlates, pair_figures
from lib.explore import inspection as runs
from lib.explore.inspection import Inspection
from lib.whole_files import whole_file, write_text

PNG_DPI = 300
IMPORTS = """\
from lib.config import Config
from lib.explore import correlates, inspection, pair_figures
from lib.store import Store
"""
PAIR = """\
facts = correlates.features_of(run.lookup, gene).loc[feature]
figure = pair_figures.pair_figure(run, gene, feature, facts)
figure.savefig({path!r}, dpi={dpi})
"""
CLOSEUP = """\
view = inspection.feature_view(run, feature)
figure = pair_figures.feature_figure(view, feature)
figure.savefig({path!r}, dpi={dpi})
"""
MAPS = "inspection.slide_maps(run, feature, slide)"
ON_SLIDE = """\
slide = {slide!r}
maps = {maps}
values = inspection.slide_values(run, feature, slide)
figure = pair_figures.slide_figure(run, feature, slide, values, maps)
figure.savefig({path!r}, dpi={dpi})
"""


def save(inspection: Inspection, gene: str, feature: str, slide: str | None) -> list[Path]:
    """Save the pair, and what the network was asked for the feature and on the slide; nothing is computed.

    Writes `<gene>_<feature>_pair`, `_closeup` and `_slide_<slide>`, each .pdf and .png, and the code that
    makes them, .py, to `inspection.saved`. Returns the paths, the code last.
    """
    facts = correlates.features_of(inspection.lookup, gene).loc[[feature]].iloc[0]
    made = [("pair", pair_figures.pair_figure(inspection, gene, feature, facts), PAIR)]
    maps = None
    view = runs.feature_view(inspection, feature, compute=False)
    if view is not None:
        made.append(("closeup", pair_figures.feature_figure(view, feature), CLOSEUP))
    values = None if slide is None else runs.slide_values(inspection, feature, slide, compute=False)
    if slide is not None and values is not None:
        maps = runs.slide_maps(inspection, feature, slide, compute=False)
        figure = pair_figures.slide_figure(inspection, feature, slide, values, maps)
        made.append((f"slide_{slide}", figure, ON_SLIDE))
    inspection.saved.mkdir(parents=True, exist_ok=True)
    stem = _file_name(f"{gene}_{feature}")
    paths, code = [], [IMPORTS, f"{inspection.code}gene, feature = {gene!r}, {feature!r}\n"]
    for what, figure, template in made:
        name = _file_name(f"{stem}_{what}")
        for suffix in (".pdf", ".png"):
            paths.append(inspection.saved / f"{name}{suffix}")
            with whole_file(paths[-1]) as temporary:
                figure.savefig(temporary, dpi=PNG_DPI)
        code.append(
            template.format(
                path=f"{name}.pdf", dpi=PNG_DPI, slide=slide, maps=MAPS if maps is not None else None
            )
        )
    paths.append(inspection.saved / f"{stem}.py")
    write_text(paths[-1], "\n".join(code))
    return paths


def _file_name(text: str) -> str:
    """A name for a file, whatever characters a user's ids hold."""
    return re.sub(r"[^\w.-]+", "-", text).strip(".-")[:120] or "pair"
