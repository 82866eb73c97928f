"""What a cohort's configuration says of one Visium section."""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """One section of a cohort of Visium; relative paths start at the cohort's raw folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str = ""  # outs/ of Space Ranger, or binned_outputs/square_008um; or, in place of it:
    h5ad: str = ""  # a file of scanpy's or squidpy's with counts, obsm["spatial"] and uns["spatial"]
    image: str  # the full-resolution image that Space Ranger was given
    donor: str = ""  # empty: the section's name, a donor of its own
    # csv of barcode and cluster, or a column of the h5ad's obs, which become tissues; empty: one tissue
    clusters: str = ""
    split: str = Field(default="", pattern="^(train|validation|test|)$")

    @model_validator(mode="after")
    def _one_input(self) -> "Section":
        if bool(self.folder) == bool(self.h5ad):
            raise ValueError("give its folder (of Space Ranger) or its h5ad, one of the two")
        return self
