"""What a cohort's configuration says of the jobs that Slurm runs for it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Jobs(BaseModel):
    """Jobs of one kind; the names are those of `sbatch` where it has one, with the unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jobs: Annotated[int, Field(ge=1)] = 4  # at a time
    partition: str = ""  # empty: the cluster's default, as the account
    account: str = ""
    cpus: Annotated[int, Field(ge=1)] = 2  # of one job; each cuts one slide at a time
    gpus: Annotated[int, Field(ge=0)] = 0
    memory_gb: Annotated[float, Field(gt=0)] = 8.0
    minutes: Annotated[int, Field(ge=1)] = 240
    directives: tuple[str, ...] = ()  # further options of sbatch, such as "--constraint=a100"
    prologue: tuple[str, ...] = ()  # lines of the job before its work, such as "module load cuda"
    interface: str = ""  # network interface of scheduler and workers, such as "ib0"

    @property
    def without_gpus(self) -> "Jobs":
        """The same for work that no GPU speeds up."""
        return self.model_copy(update={"gpus": 0})

    @property
    def walltime(self) -> str:
        """The minutes as hh:mm:ss."""
        return f"{self.minutes // 60:02d}:{self.minutes % 60:02d}:00"
