"""Images that lie elsewhere, under the names of a cohort's slides."""

import os
import shutil
from pathlib import Path

from lib.whole_files import whole_file


def link(image: Path, slide: Path) -> None:
    """The image under another name; a link, or where there are none a copy."""
    if slide.exists() and slide.samefile(image):
        return
    with whole_file(slide) as temporary:
        try:
            os.symlink(image.resolve(), temporary)
        except OSError:
            shutil.copyfile(image, temporary)
