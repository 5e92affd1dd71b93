"""Which class reads a saved recall stage: a fixed table, because a bundle must not choose what code is imported."""

from pathlib import Path
from typing import TypeVar

from candidate_gen.storage import read_header
from reranker.errors import UnknownStageError
from reranker.protocols import RecallStage

StageClass = TypeVar("StageClass", bound=type[RecallStage])

_CLASSES: dict[str, type[RecallStage]] = {}


def register_recall(stage_class: StageClass) -> StageClass:
    """Makes `load_recall` know a class of your own, by its name; usable as a decorator.

    Its `save` must write a `recall.json` whose "class" is that name and whose "format" is
    `candidate_gen.storage.FORMAT_VERSION`; `candidate_gen.storage.write_stage` does both.
    """
    _CLASSES[stage_class.__name__] = stage_class
    return stage_class


def can_load(stage: RecallStage) -> bool:
    """Whether `load_recall` would know the stage, and those that it is made of."""
    parts = getattr(stage, "stages", ())
    return _CLASSES.get(type(stage).__name__) is type(stage) and all(map(can_load, parts))


def load_recall(directory: Path | str) -> RecallStage:
    """The recall stage saved under `directory`, whatever its class.

    Raises:
        BundleError: nothing is saved there, or it is damaged.
        UnknownStageError: its class is not registered.
    """
    directory = Path(directory)
    class_name = read_header(directory).get("class")
    if class_name not in _CLASSES:
        raise UnknownStageError(
            f"{directory} holds a recall stage of the class {class_name!r}, which is not known here. Known: "
            f"{', '.join(sorted(_CLASSES))}. Register your own with candidate_gen.register_recall before loading"
        )
    return _CLASSES[class_name].load(directory)
