"""The random-weight models of the golden data: one entry per case, with the config and nothing else.

Sizes are small and awkward on purpose (no multiple of 16, GQA groups of 3, prime vocabularies), and the
original context lengths are short so that the RoPE scaling changes every sequence longer than a few tokens.
"""

from dataclasses import dataclass, field

from transformers import LlamaConfig, Qwen2Config, Qwen3Config

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass
class Case:
    name: str
    config: object
    seed: int
    stored: str = "bfloat16"  # dtype of the weight files; the values are always bf16-representable
    shards: str | None = None  # max_shard_size for the sharded case
    full_gradients: bool = False  # every parameter's gradient, else only the 1-D ones
    v4_rope: dict = field(default_factory=dict)  # the RoPE keys of the same config in transformers 4 form


def base(**over):
    """Keys that all families share; `over` wins."""
    sizes = dict(
        vocab_size=307,
        hidden_size=60,
        intermediate_size=100,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rms_norm_eps=1e-6,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
        use_cache=False,
    )
    return sizes | over


CASES = [
    Case(
        "qwen3-tied",
        Qwen3Config(
            **base(head_dim=20, tie_word_embeddings=True),
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        ),
        seed=11,
        full_gradients=True,
        v4_rope={"rope_theta": 1e6, "rope_scaling": None},
    ),
    Case(
        "qwen2-yarn",
        Qwen2Config(
            **base(
                vocab_size=311, hidden_size=72, intermediate_size=92, num_attention_heads=4, tie_word_embeddings=False
            ),
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        ),
        seed=12,
        v4_rope={
            "rope_theta": 1e4,
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        },
    ),
    Case(
        "llama-llama3",
        LlamaConfig(
            **base(vocab_size=317, head_dim=20, rms_norm_eps=1e-5, eos_token_id=[2, 5], tie_word_embeddings=False),
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        ),
        seed=13,
        shards="100KB",
        v4_rope={
            "rope_theta": 5e5,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    Case(
        "llama-linear",
        LlamaConfig(
            **base(
                vocab_size=293,
                hidden_size=42,
                intermediate_size=70,
                num_hidden_layers=3,
                num_attention_heads=3,
                num_key_value_heads=1,
                rms_norm_eps=1e-5,
                tie_word_embeddings=True,
            ),
            rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5},
        ),
        seed=14,
        stored="float32",
        v4_rope={"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.5}},
    ),
]
