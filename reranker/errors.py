"""Every error this package raises on purpose.

RerankerError
├── ConfigError   a setting is wrong: unknown key, impossible value, missing optional package
├── DataError     a table is wrong: missing column, duplicate row, NaN score, unknown id
├── PromptError   a template or soft prompt is wrong, or a prompt does not fit the model
├── ModelError    a model or data set cannot be found, fetched, verified or loaded
├── EngineError   the inference engine refused or failed a request
├── StoreError    user state cannot be read or written
├── GeneratorError  a candidate generator of somebody's own failed
├── StoppedError  a training was asked to end, and has kept what it had
└── BundleError   a saved bundle is corrupt, incomplete or belongs to another model
    └── UnknownGeneratorError   it holds a candidate generator of a class that is not registered

Each message says what was wrong, where, and what to do about it.
"""


class RerankerError(Exception):
    """Base class: catch this to catch everything the package raises on purpose."""


class ConfigError(RerankerError):
    """A setting is wrong: unknown key, impossible value or a missing optional package."""


class DataError(RerankerError):
    """A table is wrong; the message names the table, the column and the first offending rows."""


class PromptError(RerankerError):
    """A template or soft prompt is wrong, or a prompt does not fit the model's context."""


class ModelError(RerankerError):
    """A model or data set cannot be found, fetched, verified or loaded."""


class EngineError(RerankerError):
    """The inference engine refused or failed a request."""


class StoreError(RerankerError):
    """User state cannot be read or written."""


class StoppedError(RerankerError):
    """A training was asked to end (SIGTERM), and has kept what it had: the same command goes on from there."""


class GeneratorError(RerankerError):
    """A candidate generator of somebody's own failed; the message names the step."""


class BundleError(RerankerError):
    """A saved bundle is corrupt, incomplete or belongs to another model."""


class UnknownGeneratorError(BundleError):
    """A saved candidate generator is of a class that is not registered here."""
