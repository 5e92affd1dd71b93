"""Run by check_wheel.sh with the Python of a clean environment: does the installed wheel work without its extras?"""

import sys
from importlib.resources import files
from pathlib import Path

HEAVY = {"torch", "vllm", "implicit", "transformers", "peft", "matplotlib", "lightgbm"}


def main() -> None:
    """Stops with an AssertionError or ImportError when it does not."""
    import candidate_gen
    import reranker

    loaded = sorted(HEAVY & sys.modules.keys())
    assert not loaded, f"`import reranker, candidate_gen` loaded {loaded}"

    from reranker.prompting import TemplateSet

    rendered = TemplateSet.load("movies").render("instruction")
    assert rendered.strip(), "the template movies/instruction rendered to nothing"
    assert files("reranker.evaluation.reporting").joinpath("report.html.j2").is_file(), "the report has no template"
    from reranker.soft_tokens.checkpoint import SHIPPED
    from reranker.soft_tokens.peft_format import load_peft

    assert load_peft(SHIPPED).relative, "the shipped prompt is not what it was"
    for package in (reranker, candidate_gen):
        location = Path(str(package.__file__))
        assert "site-packages" in location.parts, f"{package.__name__} came from {location}, not from the wheel"


if __name__ == "__main__":
    main()
