"""Names of the thirteen networks of Table 1 and the smallest input each takes; imports nothing heavy.

The driver checks a run's networks with this before anything starts; `lib.network.models` builds them.
"""

from collections.abc import Sequence
from difflib import get_close_matches

# Our name -> the paper's spelling (Table 1).
PAPER_NAMES = {
    "alexnet": "AlexNet",
    "vgg11": "VGG11",
    "vgg13": "VGG13",
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "vgg11_bn": "VGG11_bn",
    "vgg13_bn": "VGG13_bn",
    "vgg16_bn": "VGG16_bn",
    "vgg19_bn": "VGG19_bn",
    "resnet34": "ResNet34",
    "inception_v3": "Inception_v3",
    "vgg16_1fc": "VGG16_1FC",
    "vgg16_avg1fc": "VGG16_avg1FC",
}
ARCHITECTURES = tuple(PAPER_NAMES)

# Below these a pool has nothing left to pool. ResNet34 runs on any input; 32 px is its total stride.
MINIMUM_PX = {"alexnet": 63, "resnet34": 32, "inception_v3": 75}
MINIMUM_PX |= {name: 32 for name in ARCHITECTURES if name.startswith("vgg")}


def check_name(architecture: str, known: Sequence[str] = ARCHITECTURES) -> None:
    """ValueError naming the nearest of the known names, unless `architecture` is one of them."""
    if architecture in known:
        return
    nearest = get_close_matches(architecture.lower(), known, n=3, cutoff=0.4) or list(known[:3])
    raise ValueError(
        f"architecture {architecture!r} is unknown; nearest: {', '.join(nearest)}. The thirteen are "
        f"{', '.join(ARCHITECTURES)}; any other encoder is written timm:<model> or torchvision:<model>."
    )


def check_px(architecture: str, input_px: int, minimum_px: int) -> None:
    """ValueError naming the minimum, when a square input of `input_px` is smaller than the network takes."""
    if input_px < minimum_px:
        raise ValueError(
            f"input of {input_px} px is too small for {architecture}: its minimum is {minimum_px} px. "
            "Make tiles with a larger input_px or choose another architecture."
        )
