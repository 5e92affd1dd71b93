"""What the vLLM engine tells its worker and its connector with a request, in `SamplingParams.extra_args`."""

SCORED_FROM = "reranker_scored_from"  # index in the prompt of the first token whose log-probability counts
UNREAD = "reranker_unread"  # true of requests whose generated token nobody reads
LAST_TOKEN = "reranker_last_token"  # follows the prompt; scored, never computed
STATES = "reranker_states"  # true where the sum of the span's hidden states is kept, in place of its likelihood
FOLLOWERS = "reranker_followers"  # tokens that may follow the prompt; their log-probabilities are kept
LAYER = "reranker_layer"  # how many layers are computed for these states; not there for all
KEPT = "reranker_kept"  # number that states or log-probabilities are kept under

# in kv_transfer_params
TAIL = "reranker_tail"  # number of the prefix whose last block is kept
LENGTH = "reranker_prefix_length"  # tokens of that prefix
KEPT_TAIL = "reranker_kept_tail"  # number to keep the last block of the whole prompt under

TAIL_ROWS = 256  # prefixes whose last block is kept at once; the oldest goes first
