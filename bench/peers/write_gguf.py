"""A Qwen3 model of Hugging Face's layout as GGUF, in bf16 or Q8_0: what llama.cpp reads.

    python3 bench/peers/write_gguf.py --folder DIR --type bf16|q8_0 --out FILE

The weights are those of DIR/model.safetensors; the vocabulary is made up (one piece of text a token), since the peers
are given token ids. Matrices get the type that is asked for, norms stay f32, as llama.cpp's own converter does.
"""

import argparse
import json
import os
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors import safe_open

BLOCK_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name):
    """model.layers.3.self_attn.q_proj.weight -> blk.3.attn_q.weight; an unknown name is an error."""
    path = name.removesuffix(".weight")
    if path in NAMES:
        return f"{NAMES[path]}.weight"
    _, _, layer, rest = path.split(".", 3)
    return f"blk.{int(layer)}.{BLOCK_NAMES[rest]}.weight"


def byte_pieces():
    """The 256 pieces that stand for bytes in a byte-level vocabulary (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    codes = {b: b for b in printable} | {b: 256 + i for i, b in enumerate(others)}
    return [chr(codes[b]) for b in range(256)]


def write_vocabulary(writer, size, end):
    pieces = byte_pieces() + [f"<{i}>" for i in range(256, size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(pieces)
    writer.add_token_types([gguf.TokenType.NORMAL] * size)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(end)


def write_sizes(writer, config):
    if config["model_type"] != "qwen3":
        raise SystemExit(f"write_gguf.py writes qwen3, not {config['model_type']}")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    writer.add_rope_freq_base(theta)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--type", choices=["bf16", "q8_0"], required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    config = json.loads((args.folder / "config.json").read_text())
    kind = {"bf16": gguf.GGMLQuantizationType.BF16, "q8_0": gguf.GGMLQuantizationType.Q8_0}[args.type]
    file_type = {"bf16": gguf.LlamaFileType.MOSTLY_BF16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}[args.type]
    unfinished = args.out.with_suffix(".part")
    writer = gguf.GGUFWriter(unfinished, "qwen3")
    writer.add_file_type(file_type)
    write_sizes(writer, config)
    write_vocabulary(writer, config["vocab_size"], config["eos_token_id"])
    with safe_open(args.folder / "model.safetensors", framework="pt") as weights:
        for name in weights.keys():
            values = weights.get_tensor(name).to(torch.float32).numpy()
            stored = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else kind
            data = gguf.quantize(np.ascontiguousarray(values), stored)
            writer.add_tensor(gguf_name(name), data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(unfinished, args.out)


main()
