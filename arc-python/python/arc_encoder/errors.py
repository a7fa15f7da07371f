"""What can go wrong, each with a hint.

The text of an error is one line that says what was found and what was expected; ``hint`` says what to do, and
``code`` is the name that the command line gives it in ``--json``, which stays. All are :class:`ArcError`, and
those that Python has a class for are that too (``ValueError``, ``LookupError``, ``OSError``)::

    ArcError
    ├── UsageError (ValueError)          a value, a count or an encoder that makes no sense there
    │   ├── NotFoundError (LookupError)  a name that nothing has
    │   └── WindowExceededError          a prompt that does not fit the decoder
    ├── DocumentError (ValueError)       a text that cannot be compressed
    ├── FileError (OSError)              the system refused to read or write
    ├── InvalidFileError                 a file that is damaged, of another format, or unsupported
    ├── PullError                        a model that could not be fetched, or is not the pinned one
    ├── MismatchError                    latents, adapters and models that were not made for one another
    ├── AdapterError                     a registry, an adapter package or a plugin that cannot be used
    ├── DeviceError                      a device that is not there, or failed
    ├── NotFiniteError (ArithmeticError) numbers that are none, or that a format has no room for
    ├── BridgeError (TypeError)          a model that another engine cannot be fed through
    └── TrainingError                    a registration that came to nothing
"""

from __future__ import annotations

import os


class ArcError(Exception):
    """Anything that went wrong in this package."""

    message: str
    """One line: what was found, and what was expected."""
    hint: str | None
    """What to do about it."""
    code: str
    """What the command line calls it in ``--json``."""

    def __init__(self, message: str, hint: str | None = None, code: str = "failed") -> None:
        # Not `super()`: of a class that is an OSError too it would take these for a number and a file.
        Exception.__init__(self, message, hint, code)
        self.message, self.hint, self.code = message, hint, code

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


class UsageError(ArcError, ValueError):
    """A value, a count or an encoder that makes no sense where it was given."""


class NotFoundError(UsageError, LookupError):
    """A name that nothing has."""


class WindowExceededError(UsageError):
    """A prompt with its new tokens does not fit the decoder's window."""


class DocumentError(ArcError, ValueError):
    """A text that cannot be compressed as it is."""


class FileError(ArcError, OSError):
    """The system refused to read or write a file; ``errno`` and ``filename`` are as in ``OSError``."""

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        code: str = "io",
        errno: int | None = None,
        filename: str | os.PathLike[str] | None = None,
    ) -> None:
        ArcError.__init__(self, message, hint, code)
        self.args = (message, hint, code, errno, filename)
        self.errno, self.strerror = errno, message
        self.filename = None if filename is None else os.fspath(filename)


class InvalidFileError(ArcError):
    """A file that is damaged, of another format than it should be, or not supported."""


class PullError(ArcError):
    """A model that could not be fetched, or that is not the one that the registry pins."""


class MismatchError(ArcError):
    """Latents, adapters and models that were not made for one another."""


class AdapterError(ArcError):
    """A registry, an adapter package or a plugin that cannot be used."""


class DeviceError(ArcError):
    """A device that is not there or not in this build, or that failed."""


class NotFiniteError(ArcError, ArithmeticError):
    """A model computed what is no number, or a value is larger than its format can express."""


class BridgeError(ArcError, TypeError):
    """A model that cannot be fed through a bridge, and why."""


class TrainingError(ArcError):
    """A registration that came to nothing."""
