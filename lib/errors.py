"""The family of this library's own errors: each says what is wrong, where, and what to do about it.

Whoever embeds the library catches `HistocorrError`. Each kind is also the built-in error that fits it, so
that `except ValueError` works as well. Anything else that is raised is a fault of this library.
"""


class HistocorrError(Exception):
    """Base of all errors that this library raises on purpose."""


class InputError(HistocorrError, ValueError):
    """A file, a table or a parameter of the user's cannot be used as it is."""


class MissingInputError(HistocorrError, FileNotFoundError):
    """A file that the user or a download should have put there is missing."""


class DamagedFileError(HistocorrError, ValueError):
    """A file that this library wrote no longer holds what was written."""


class BusyError(HistocorrError, RuntimeError):
    """Somebody else works on the same cohort."""


class OutputError(HistocorrError, OSError):
    """A result cannot be written: disk full, quota exceeded, read-only or no permission."""


class StaleArtefactError(HistocorrError, RuntimeError):
    """An artefact is missing or no longer fits the configuration; says which, whose, and why."""

    def __init__(self, artefact: str, notebook: str, why: str) -> None:
        super().__init__(
            f"{artefact!r} {why}: run notebook {notebook} (python run_all.py --only {notebook[:2]})"
        )
        self.artefact, self.notebook, self.why = artefact, notebook, why
