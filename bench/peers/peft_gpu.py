"""The tutorials' LoRA job in transformers + PEFT, on the weights, adapter and rows that Lathe's device check wrote.

    python3 bench/peers/peft_gpu.py --folder DIR --mode tutorial|best [--compared 20] [--device cuda]

DIR holds a Hugging Face model folder, `adapter/` (a PEFT folder) and `steps.json`: for each optimizer step its rows,
`{"ids": [...], "prompt": n}`, of which the first n tokens carry no label.

tutorial: what the public tutorials print: batches of 16 x 2 accumulation steps, padded to the longest row, gradient
          checkpointing on, the Trainer's default AdamW, SDPA attention.
best:     rows of a step in one padding-free pack (position ids restart, FlashAttention through `varlen` when flash-attn
          is installed, else SDPA on a padded batch sorted by length), no checkpointing, fused AdamW.

Losses are means over the labelled tokens of a whole optimizer step, as Lathe's. The last line is one JSON object.
"""

import argparse
import importlib.util
import json
import statistics
import time

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

IGNORED = -100


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--mode", choices=["tutorial", "best"], required=True)
    parser.add_argument("--compared", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


def labelled(row):
    """Targets of a row that count: every token from `prompt` on, except that the first token has no prediction."""
    return len(row["ids"]) - max(row["prompt"], 1)


def padded(rows, device):
    longest = max(len(r["ids"]) for r in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        n = len(row["ids"])
        ids[i, :n] = torch.tensor(row["ids"])
        mask[i, :n] = 1
        start = max(row["prompt"], 1)
        labels[i, start:n] = ids[i, start:n]
    return {k: v.to(device) for k, v in dict(input_ids=ids, attention_mask=mask, labels=labels).items()}


def packed(rows, device):
    ids, positions, labels = [], [], []
    for row in rows:
        start = max(row["prompt"], 1)
        ids += row["ids"]
        positions += range(len(row["ids"]))
        labels += [IGNORED] * start + row["ids"][start:]
    tensors = dict(input_ids=ids, position_ids=positions, labels=labels)
    return {k: torch.tensor([v], device=device) for k, v in tensors.items()}


def summed_loss(model, batch):
    """Cross-entropy summed over labelled tokens, logits in float32 on labelled rows only."""
    labels = batch.pop("labels")
    inner = model.base_model.model
    hidden = inner.model(**batch, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    chosen = targets != IGNORED
    logits = inner.lm_head(hidden[chosen]).float()
    return torch.nn.functional.cross_entropy(logits, targets[chosen], reduction="sum")


def main():
    args = arguments()
    on_gpu = args.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device")
    flash = args.mode == "best" and on_gpu and importlib.util.find_spec("flash_attn") is not None
    model = AutoModelForCausalLM.from_pretrained(
        args.folder, dtype=torch.bfloat16, attn_implementation="flash_attention_2" if flash else "sdpa"
    ).to(args.device)
    model = PeftModel.from_pretrained(model, f"{args.folder}/adapter", is_trainable=True)
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = p.data.float()
    model.train()
    if args.mode == "tutorial":
        model.enable_input_require_grads()
        model.base_model.model.gradient_checkpointing_enable()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=on_gpu and args.mode == "best")

    with open(f"{args.folder}/steps.json") as file:
        steps = json.load(file)
    losses, norms, times = [], [], []
    for rows in steps:
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        total = sum(labelled(row) for row in rows)
        if args.mode == "tutorial":
            half = len(rows) // 2
            batches = [padded(rows[:half], args.device), padded(rows[half:], args.device)]
        elif flash:
            batches = [packed(rows, args.device)]
        else:
            ordered = sorted(rows, key=lambda row: len(row["ids"]))
            half = len(rows) // 2
            batches = [padded(ordered[:half], args.device), padded(ordered[half:], args.device)]
        loss = torch.zeros((), device=args.device)
        for batch in batches:
            part = summed_loss(model, batch) / total
            part.backward()
            loss += part.detach()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        norms.append(norm.item())
        times.append(time.perf_counter() - start)

    timed = times[args.compared :]
    print(json.dumps({
        "mode": args.mode,
        "flash_attention": flash,
        "torch": torch.__version__,
        "samples_per_second": len(steps[-1]) / statistics.median(timed),
        "losses": losses[: args.compared],
        "grad_norms": norms[: args.compared],
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0,
    }))


if __name__ == "__main__":
    main()
