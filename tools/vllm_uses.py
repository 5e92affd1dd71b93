"""What the product uses of vLLM beside what it imports: signatures, attributes and sampling fields, by where they lie.

A line here is a line of `reranker/` that would fail, or fall back, without it. Add one with every new use.
"""

from collections.abc import Mapping
from dataclasses import dataclass

BOTH, GPU = ("cpu", "gpu"), ("gpu",)

CHECKED: Mapping[str, str] = {"gpu": "0.33.0", "cpu": "0.32.0"}
"""Versions that the code was written against. A pin that moves fails until this moves, and somebody has looked."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """Something of one class, or of a module where there is no class.

    Attributes:
        part: of the product, which needs it.
        module: where a wheel has it.
        owner: a class; "" for functions of the module.
        attributes: that instances must have: fields, methods, or what a method gives `self`.
        method: one whose parameters matter.
        parameters: that it must take by name.
        exactly: whether these must be all of its parameters: it is replaced.
        wheels: that must have it.
    """

    part: str
    module: str
    owner: str = ""
    attributes: tuple[str, ...] = ()
    method: str = ""
    parameters: tuple[str, ...] = ()
    exactly: bool = False
    wheels: tuple[str, ...] = BOTH


def _has(part: str, place: str, *attributes: str) -> Use:
    module, owner = place.split(":")
    return Use(part=part, module=module, owner=owner, attributes=attributes)


def _takes(part: str, place: str, method: str, *parameters: str, exactly: bool = False) -> Use:
    module, _, owner = place.partition(":")
    return Use(part=part, module=module, owner=owner, method=method, parameters=parameters, exactly=exactly)


_CONNECTOR = "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1"
_RUNNER_V1 = "vllm.v1.worker.gpu_model_runner:GPUModelRunner"
_RUNNER_V2 = "vllm.v1.worker.gpu.model_runner:GPUModelRunner"
_PROMPT_WORKER = "vllm.v1.worker.gpu.sample.prompt_logprob:PromptLogprobsWorker"

USES: tuple[Use, ...] = (
    # process.py
    _takes("front", "vllm.entrypoints.llm:LLM", "__init__", "model", "dtype", "hf_overrides", "enforce_eager", "**"),
    _has(
        "front",
        "vllm.engine.arg_utils:EngineArgs",
        "max_model_len",
        "enable_prefix_caching",
        "max_logprobs",
        "max_num_batched_tokens",
        "disable_log_stats",
        "worker_extension_cls",
        "block_size",
        "kv_cache_memory_bytes",
        "kv_transfer_config",
        "gpu_memory_utilization",
        "load_format",
    ),
    _takes("front", "vllm.renderers.base:BaseRenderer", "validate_token_ids", "token_ids", "parameter"),
    _has("front", "vllm.platforms.interface:Platform", "is_cpu"),
    # grammar_process.py
    _takes("grammars", "vllm.sampling_params:SamplingParams", "verify", "model_config", "tokenizer"),
    _has("grammars", "vllm.sampling_params:SamplingParams", "structured_outputs", "all_stop_token_ids"),
    _has("grammars", "vllm.sampling_params:StructuredOutputsParams", "_backend"),
    _takes("grammars", "vllm.v1.structured_output:StructuredOutputManager", "grammar_init", "request"),
    _has("grammars", "vllm.v1.structured_output:StructuredOutputManager", "backend", "executor"),
    _takes("grammars", "vllm.v1.structured_output.request:StructuredOutputRequest", "from_sampling_params"),
    _has("grammars", "vllm.v1.structured_output.request:StructuredOutputRequest", "grammar"),
    # engine.py, stepping.py, death.py
    _has("front", "vllm.entrypoints.llm:LLM", "llm_engine"),
    _takes("front", "vllm.entrypoints.llm:LLM", "enqueue", "prompts", "sampling_params", "use_tqdm"),
    _takes("front", "vllm.entrypoints.llm:LLM", "collective_rpc", "method", "args"),
    _has("front", "vllm.entrypoints.llm:LLM", "reset_prefix_cache"),
    _has(
        "front",
        "vllm.v1.engine.llm_engine:LLMEngine",
        "engine_core",
        "model_config",
        "vllm_config",
        "renderer",
        "input_processor",
        "step",
    ),
    _takes("front", "vllm.v1.engine.llm_engine:LLMEngine", "add_request", "request_id", "prompt", "params"),
    _takes("front", "vllm.v1.engine.llm_engine:LLMEngine", "abort_request", "request_ids", "internal"),
    _takes("front", "vllm.inputs:", "tokens_input", "prompt_token_ids", "cache_salt"),
    _has("front", "vllm.config.model:ModelConfig", "get_hidden_size", "get_vocab_size", "max_model_len", "dtype"),
    _has("front", "vllm.config.cache:CacheConfig", "num_gpu_blocks", "block_size"),
    _has(
        "front",
        "vllm.v1.engine.core_client:SyncMPClient",
        "shutdown",
        "output_queue_thread",
        "ctx",
        "resources",
        "outputs_queue",
        "utility_results",
    ),
    _has("front", "vllm.v1.engine.core_client:BackgroundResources", "engine_dead", "engine_manager"),
    _has("front", "vllm.v1.engine.utils:CoreEngineProcManager", "processes"),
    _has(
        "front",
        "vllm.sampling_params:SamplingParams",
        "max_tokens",
        "temperature",
        "top_p",
        "seed",
        "stop_token_ids",
        "detokenize",
        "output_kind",
        "prompt_logprobs",
        "skip_reading_prefix_cache",
        "logprob_token_ids",
        "extra_args",
    ),
    _has(
        "front",
        "vllm.outputs:RequestOutput",
        "request_id",
        "finished",
        "prompt_logprobs",
        "num_cached_tokens",
        "outputs",
    ),
    _has("front", "vllm.outputs:CompletionOutput", "token_ids", "logprobs"),
    _takes("front", "vllm.v1.engine.exceptions:EngineDeadError", "__init__"),
    # backends/v1_patched.py
    _takes(
        "v1_patched",
        _RUNNER_V1,
        "_get_prompt_logprobs_dict",
        "self",
        "hidden_states",
        "num_scheduled_tokens",
        exactly=True,
    ),
    _has(
        "v1_patched",
        _RUNNER_V1,
        "num_prompt_logprobs",
        "requests",
        "input_batch",
        "query_start_loc",
        "get_model",
        "model_config",
    ),
    _has("v1_patched", "vllm.v1.worker.gpu_input_batch:InputBatch", "req_id_to_index"),
    _has(
        "v1_patched",
        "vllm.v1.worker.gpu_input_batch:CachedRequestState",
        "sampling_params",
        "prompt_token_ids",
        "num_computed_tokens",
        "in_progress_prompt_logprobs_cpu",
    ),
    _has("v1_patched", "vllm.v1.outputs:LogprobsTensors", "logprob_token_ids", "logprobs", "selected_token_ranks"),
    _has("v1_patched", "vllm.model_executor.layers.vocab_parallel_embedding:ParallelLMHead", "tp_size"),
    _has(
        "v1_patched",
        "vllm.model_executor.layers.logits_processor:LogitsProcessor",
        "org_vocab_size",
        "scale",
        "soft_cap",
    ),
    # backends/v2_native.py
    _has("v2_native", "vllm.sampling_params:SamplingParams", "prompt_logprob_token_ids", "prompt_logprob_start"),
    _has("v2_native", "vllm.outputs:RequestOutput", "prompt_token_id_logprobs"),
    _has("v2_native", "vllm.config.vllm:VllmConfig", "use_v2_model_runner"),
    _has("v2_native", _RUNNER_V2, "prompt_logprobs_worker", "get_model", "model_config", "sampler"),
    _has("v2_native", "vllm.v1.worker.gpu.sample.sampler:Sampler", "penalties_state"),
    _has("v2_native", "vllm.v1.worker.gpu.sample.penalties:PenaltiesState", "prompt_bin_mask"),
    _takes("v2_native", _PROMPT_WORKER, "add_request", "self", "req_id", "req_idx", "sampling_params", exactly=True),
    _takes("v2_native", _PROMPT_WORKER, "remove_request", "self", "req_id", exactly=True),
    _takes(
        "v2_native",
        _PROMPT_WORKER,
        "compute_prompt_token_id_logprobs",
        "self",
        "logits_fn",
        "hidden_states",
        "input_batch",
        "prompt_lens",
        exactly=True,
    ),
    _takes("v2_native", _PROMPT_WORKER, "compute_prompt_logprobs", "hidden_states", "input_batch", "prompt_lens"),
    _has("v2_native", _PROMPT_WORKER, "token_id_scores", "logprobs_mode"),
    _has(
        "v2_native",
        "vllm.v1.worker.gpu.sample.prompt_logprob:_TokenIdScores",
        "token_ids",
        "pad",
        "start",
        "scores",
    ),
    _has(
        "v2_native",
        "vllm.v1.worker.gpu.input_batch:InputBatch",
        "req_ids",
        "idx_mapping_np",
        "num_scheduled_tokens",
        "query_start_loc_np",
        "num_computed_prefill_tokens_np",
        "prefill_len_np",
    ),
    # backends/layers.py, stepping.py
    _has("layers", "vllm.model_executor.models.llama:LlamaModel", "layers", "start_layer", "end_layer", "norm"),
    _has("layers", "vllm.config.model:ModelConfig", "enforce_eager"),
    _has("layers", "vllm.inputs.llm:_PromptOptions", "cache_salt"),
    # partial_blocks.py
    _takes("connector", _CONNECTOR, "__init__", "vllm_config", "role", "kv_cache_config"),
    _takes("connector", _CONNECTOR, "get_num_new_matched_tokens", "request", "num_computed_tokens"),
    _takes("connector", _CONNECTOR, "update_state_after_alloc", "request", "blocks", "num_external_tokens"),
    _takes("connector", _CONNECTOR, "build_connector_meta", "scheduler_output"),
    _takes("connector", _CONNECTOR, "request_finished", "request", "block_ids"),
    _takes("connector", _CONNECTOR, "register_kv_caches", "kv_caches"),
    _takes("connector", _CONNECTOR, "start_load_kv", "forward_context", "**"),
    _has("connector", _CONNECTOR, "wait_for_save", "_get_connector_metadata", "_kv_cache_manager"),
    _has(
        "connector",
        "vllm.v1.request:Request",
        "request_id",
        "num_prompt_tokens",
        "num_computed_tokens",
        "kv_transfer_params",
    ),
    _has("connector", "vllm.v1.core.sched.output:SchedulerOutput", "num_scheduled_tokens"),
    _has("connector", "vllm.v1.core.kv_cache_manager:KVCacheManager", "get_block_ids"),
    # waiting.py, patches.py
    _takes(
        "speed",
        "vllm.distributed.device_communicators.shm_broadcast:SpinCondition",
        "wait",
        "self",
        "timeout_ms",
        exactly=True,
    ),
    _has(
        "speed", "vllm.distributed.device_communicators.shm_broadcast:SpinCondition", "busy_loop_s", "last_read", "wait"
    ),
    _has(
        "speed",
        "vllm.model_executor.layers.layernorm:RMSNorm",
        "variance_epsilon",
        "variance_size_override",
        "_forward_method",
    ),
    # serve/generation/vllm.py
    _takes(
        "server",
        "vllm.renderers.online_renderer:OnlineRenderer",
        "__init__",
        "request_logger",
        "chat_template",
        "chat_template_content_format",
        "enable_auto_tools",
        "tool_parser",
    ),
    _takes(
        "server",
        "vllm.entrypoints.openai.chat_completion.serving:OpenAIServingChat",
        "__init__",
        "engine_client",
        "models",
        "online_renderer",
        "request_logger",
        "response_role",
        "chat_template",
        "chat_template_content_format",
        "enable_auto_tools",
        "tool_parser",
    ),
    _takes(
        "server",
        "vllm.entrypoints.openai.completion.serving:OpenAIServingCompletion",
        "__init__",
        "engine_client",
        "models",
        "online_renderer",
        "request_logger",
    ),
    _has(
        "server",
        "vllm.entrypoints.openai.chat_completion.serving:OpenAIServingChat",
        "create_chat_completion",
        "engine_client",
    ),
    _has("server", "vllm.entrypoints.openai.completion.serving:OpenAIServingCompletion", "create_completion"),
)
