"""The parameters of tiling: how large a tile is, which tiles are kept, and how pixels are read."""

from dataclasses import dataclass

from lib.errors import InputError

READERS = ("auto", "openslide", "jpeg")


@dataclass(frozen=True)
class Tiling:
    """How slides are cut into tiles; the defaults are those of Badea & Stanescu 2020, Methods.

    Parameters
    ----------
    tile_px, tile_mpp : a tile is tile_px pixels of tile_mpp µm wide ("10x")
    input_px : edge of the network's input, pixels, to which a tile is rescaled
    min_tissue : tiles with a smaller share of tissue, 0 to 1, are dropped
    mask_mpp : µm/px of the tissue mask
    reader : "openslide" reads level 0, or a lower level not coarser than tile_mpp; "jpeg" reduces while
        decoding (`scaled_jpeg`); "auto" takes "jpeg" where the slide allows it and both agree

    Raises
    ------
    ValueError
        A parameter out of range.
    """

    tile_px: int = 512
    tile_mpp: float = 0.9884
    input_px: int = 224
    min_tissue: float = 0.5
    mask_mpp: float = 8.0
    reader: str = "auto"

    def __post_init__(self) -> None:
        for name in ("tile_px", "input_px"):
            value = getattr(self, name)
            if value < 1 or value != int(value):
                raise InputError(f"{name} must be a positive whole number, not {value}")
        for name in ("tile_mpp", "mask_mpp"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive (µm/px), not {getattr(self, name)}")
        if not 0 <= self.min_tissue <= 1:
            raise InputError(f"min_tissue must be a share between 0 and 1, not {self.min_tissue}")
        if self.reader not in READERS:
            raise InputError(f"reader must be one of {', '.join(READERS)}, not {self.reader!r}")

    def l0_size(self, mpp: float) -> int:
        """Edge of a tile in level-0 pixels of `mpp` µm: 512 px of 0.9884 µm at 0.4942 µm/px are 1024.

        Rounded to whole pixels, a relative error below 0.5 / result.
        """
        return max(1, round(self.tile_px * self.tile_mpp / mpp))
