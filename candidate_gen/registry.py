"""Which class reads a saved recall stage: a fixed table, because a bundle must not choose what code is imported."""

from pathlib import Path
from typing import TypeVar

from candidate_gen.storage import read_header
from reranker.errors import BundleError
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


def load_recall(directory: Path | str) -> RecallStage:
    """The recall stage saved under `directory`, whatever its class.

    Raises:
        BundleError: nothing is saved there, it is damaged, or its class is not registered.
    """
    directory = Path(directory)
    class_name = read_header(directory).get("class")
    if class_name not in _CLASSES:
        raise BundleError(
            f"{directory} holds a recall stage of the class {class_name!r}, which is not known here. Known: "
            f"{', '.join(sorted(_CLASSES))}. Register your own with candidate_gen.register_recall before loading"
        )
    return _CLASSES[class_name].load(directory)
