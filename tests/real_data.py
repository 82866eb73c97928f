"""The folder of real files that tests read: DATA_MIRROR, else shared/data beside the repository."""

from lib.sources import mirror

MIRROR = mirror.folder() or mirror.REPOSITORY.parent / "shared" / "data"
