"""LoRA training with transformers and PEFT on the CPU, as a peer (see peer-process.ts): bf16 weights, SDPA attention, no
checkpointing, fused AdamW, clipping at 1.

    python3 bench/peers/peft_cpu.py --folder DIR --threads N [--adapter bfloat16] [--head labelled]

DIR holds a Hugging Face model folder and `adapter/`, a PEFT folder. A request {"run": [step, ...]} is optimizer steps, each
a list of rows {"ids": [...], "prompt": n} of which the first n tokens carry no label; the rows of a step are one batch,
padded to the longest. The answer holds the seconds of all steps, and loss and gradient norm of the first.

--adapter: dtype of A and B (PEFT's default beside bf16 weights is float32). --head: `all` lets the model compute its loss from
the logits of every token, as a Trainer does; `labelled` computes logits where there is a label only.
"""

import argparse
import json
import resource
import sys
import time

import peft
import torch
import transformers

IGNORED = -100


def batch_of(rows):
    """Right-padded tensors; the mask only where there is padding."""
    longest = max(len(row["ids"]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        n, start = len(row["ids"]), max(row["prompt"], 1)
        ids[i, :n] = torch.tensor(row["ids"])
        mask[i, :n] = 1
        labels[i, start:n] = ids[i, start:n]
    padded = bool((mask == 0).any())
    return {"input_ids": ids, "labels": labels, **({"attention_mask": mask} if padded else {})}


def loss_of(model, batch, head):
    """Mean cross-entropy over the labelled tokens."""
    if head == "all":
        return model(**batch, use_cache=False).loss
    labels = batch.pop("labels")[:, 1:]
    inner = model.base_model.model
    hidden = inner.model(**batch, use_cache=False).last_hidden_state[:, :-1]
    chosen = labels != IGNORED
    return torch.nn.functional.cross_entropy(inner.lm_head(hidden[chosen]).float(), labels[chosen])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--adapter", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--head", choices=["all", "labelled"], default="all")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.folder, dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    model = peft.PeftModel.from_pretrained(
        model, f"{args.folder}/adapter", is_trainable=True, autocast_adapter_dtype=args.adapter == "float32"
    )
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p in parameters:
        p.data = p.data.to(getattr(torch, args.adapter))
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)

    def step(rows):
        loss = loss_of(model, batch_of(rows), args.head)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item(), norm.item()

    def answer(value):
        print(json.dumps(value), flush=True)

    answer({"ready": True, "torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
            "threads": torch.get_num_threads(), "adapter": args.adapter, "head": args.head})
    for line in sys.stdin:
        try:
            steps = json.loads(line)["run"]
            start = time.perf_counter()
            figures = [step(rows) for rows in steps]
            seconds = time.perf_counter() - start
        except Exception as error:  # the bench says what went wrong, and where
            answer({"error": f"{type(error).__name__}: {error}"})
            continue
        loss, norm = figures[0]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answer({"seconds": seconds, "loss": loss, "grad_norm": norm, "peak_rss_mib": peak})


if __name__ == "__main__":
    main()
