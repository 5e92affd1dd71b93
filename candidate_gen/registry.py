"""Which class reads a saved candidate generator: a fixed table, for a bundle must not choose what is imported."""

from pathlib import Path
from typing import TypeVar

from candidate_gen.storage import read_header
from reranker.errors import UnknownGeneratorError
from reranker.protocols import CandidateGenerator

StageClass = TypeVar("StageClass", bound=type[CandidateGenerator])

_CLASSES: dict[str, type[CandidateGenerator]] = {}


def register_generator(stage_class: StageClass) -> StageClass:
    """Makes `load_generator` know a class of your own, by its name; usable as a decorator.

    Its `save` must write a `generator.json` whose "class" is that name and whose "format" is
    `candidate_gen.storage.FORMAT_VERSION`; `candidate_gen.storage.write_stage` does both.
    """
    _CLASSES[stage_class.__name__] = stage_class
    return stage_class


def can_load(stage: CandidateGenerator) -> bool:
    """Whether `load_generator` would know the stage, and those that it is made of."""
    parts = getattr(stage, "stages", ())
    return _CLASSES.get(type(stage).__name__) is type(stage) and all(map(can_load, parts))


def load_generator(directory: Path | str) -> CandidateGenerator:
    """The candidate generator saved under `directory`, whatever its class.

    Raises:
        BundleError: nothing is saved there, or it is damaged.
        UnknownGeneratorError: its class is not registered.
    """
    directory = Path(directory)
    class_name = read_header(directory).get("class")
    if class_name not in _CLASSES:
        raise UnknownGeneratorError(
            f"{directory} holds a candidate generator of the class {class_name!r}, which is not known here. Known: "
            f"{', '.join(sorted(_CLASSES))}. Register your own with candidate_gen.register_generator before loading"
        )
    return _CLASSES[class_name].load(directory)
