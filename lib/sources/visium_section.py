"""What a cohort's configuration says of one Visium section."""

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """One section of a cohort of Visium; relative paths start at the cohort's raw folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str  # outs/ of Space Ranger, or binned_outputs/square_008um
    image: str  # the full-resolution image that Space Ranger was given
    donor: str = ""  # empty: the section's name, a donor of its own
    clusters: str = ""  # csv of barcode and cluster, which become tissues; empty: one tissue
    split: str = Field(default="", pattern="^(train|validation|test|)$")
