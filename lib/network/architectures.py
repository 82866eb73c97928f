"""Names of the thirteen networks of Table 1 and the smallest input of each; imports nothing heavy.

`run_all.py` checks a run's networks here before anything starts; `lib.network.models` builds them.
"""

from collections.abc import Sequence
from difflib import get_close_matches

from lib.errors import InputError

_TABLE_1 = ["AlexNet", "VGG11", "VGG13", "VGG16", "VGG19", "VGG11_bn", "VGG13_bn", "VGG16_bn", "VGG19_bn"]
_TABLE_1 += ["ResNet34", "Inception_v3", "VGG16_1FC", "VGG16_avg1FC"]
PAPER_NAMES = {name.lower(): name for name in _TABLE_1}  # our name -> the paper's spelling
ARCHITECTURES = tuple(PAPER_NAMES)

# Smaller inputs leave a pool without pixels. ResNet34 runs on any input; 32 px is its total stride.
MINIMUM_PX = {"alexnet": 63, "resnet34": 32, "inception_v3": 75}
MINIMUM_PX |= {name: 32 for name in ARCHITECTURES if name.startswith("vgg")}


def check_name(architecture: str, known: Sequence[str] = ARCHITECTURES) -> None:
    """ValueError naming the nearest of the known names, unless `architecture` is one of them."""
    if architecture in known:
        return
    nearest = get_close_matches(architecture.lower(), known, n=3, cutoff=0.4) or list(known[:3])
    raise InputError(
        f"architecture {architecture!r} is unknown; nearest: {', '.join(nearest)}; the thirteen are "
        f"{', '.join(ARCHITECTURES)}; any other encoder is written timm:<model> or torchvision:<model>"
    )


def check_px(architecture: str, input_px: int, minimum_px: int) -> None:
    """ValueError naming the minimum, when a square input of `input_px` is smaller than that."""
    if input_px < minimum_px:
        raise InputError(
            f"input of {input_px} px is too small for {architecture}: its minimum is {minimum_px} px; "
            "cut tiles with a larger input_px or choose another architecture"
        )
