#!/usr/bin/env python3
"""Writes test/golden/data/dpo: what TRL's DPO trainer computes on the LoRA of the qwen3-tied case.

    python3 -m venv venv && venv/bin/pip install -r test/golden/requirements.txt -r test/golden/requirements-dpo.txt
    venv/bin/python test/golden/make_dpo_golden.py

Run by hand when the method changes; `npm test` only reads the files. Loss, reference and metrics are TRL's own
(DPOTrainer, loss_type sigmoid); the optimizer loop is ours because it is the one of make_golden.py. Two runs of 20
steps, two micro-batches each, pairs averaged over the step:

  base     the adapter is new to the trainer: the reference is the model with the adapter off
  adapter  training goes on from an adapter: the reference is its frozen copy

reference.json: versions, pairs, per step loss, TRL's metrics, gradient norm before the clip.
reference.safetensors: <run>.grad<step>.<PEFT key> at steps 0, 10 and 19, <run>.final.<PEFT key>.
"""

import json
import pathlib
import tempfile
from importlib.metadata import version

import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, get_linear_schedule_with_warmup
from trl import DPOConfig, DPOTrainer

DATA = pathlib.Path(__file__).parent / "data"
CASE, OUT = DATA / "qwen3-tied", DATA / "dpo"
PACKAGES = ["torch", "transformers", "peft", "trl", "safetensors"]
SEED, BETA, STEPS, WARMUP, MICRO_BATCHES, VOCAB = 31, 0.3, 20, 4, 2, 307
OPTIMIZER = dict(
    learning_rate=5e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.01, max_grad_norm=1.0
)
METRICS = ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"]
METRICS += ["logps/chosen", "logps/rejected", "mean_token_accuracy"]


def pairs(generator, count):
    """A prompt with two answers of other lengths; the preferred one follows a rule, the other is noise."""
    out = []
    for i in range(count):
        draw = lambda n: torch.randint(3, VOCAB, (n,), generator=generator).tolist()
        prompt = draw(3 + 5 * i % 11)
        chosen = [(3 * prompt[-1] + 7) % VOCAB]
        while len(chosen) < 2 + 3 * i % 7:
            chosen.append((3 * chosen[-1] + 7) % VOCAB)
        out.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": draw(1 + 4 * i % 9)})
    return out


def tokenizer():
    """TRL asks for one; nothing is tokenised with it."""
    inner = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", bos_token="<s>")


def trainer_of(reference):
    base = AutoModelForCausalLM.from_pretrained(CASE, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, CASE / "adapter_init", is_trainable=True)
    args = DPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        beta=BETA,
        loss_type="sigmoid",
        max_length=None,
        gradient_checkpointing=False,
        report_to=[],
        seed=SEED,
    )
    text = Dataset.from_list([{"prompt": "<s>", "chosen": "<s>", "rejected": "<s>"}])
    trainer = DPOTrainer(model=model, args=args, train_dataset=text, processing_class=tokenizer())
    if reference == "base":
        trainer.model.delete_adapter("ref")  # without a copy TRL's reference is the base model, adapter off
    return trainer


def run(reference, pool):
    trainer = trainer_of(reference)
    model = trainer.model.train()  # the adapter's dropout is 0
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad and ".ref." not in n]
    optimizer = torch.optim.AdamW(
        [p for _, p in named],
        lr=OPTIMIZER["learning_rate"],
        betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]),
        eps=OPTIMIZER["epsilon"],
        weight_decay=OPTIMIZER["weight_decay"],
        foreach=False,
    )
    schedule = get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS)
    key = lambda name: name.replace(".default.", ".")
    log, tensors = [], {}
    for step in range(STEPS):
        batches = [pool[(MICRO_BATCHES * step + m) % len(pool)] for m in range(MICRO_BATCHES)]
        total = sum(len(rows) for rows in batches)
        trainer._metrics["train"].clear()
        loss_sum = 0.0
        for rows in batches:
            loss = trainer._compute_loss(model, trainer.data_collator(rows), False)
            (loss * (len(rows) / total)).backward()
            loss_sum += loss.item() * len(rows)
        if step in (0, 10, 19):
            tensors |= {f"{reference}.grad{step}.{key(n)}": p.grad.clone() for n, p in named}
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in named], OPTIMIZER["max_grad_norm"]).item()
        found = trainer._metrics["train"]
        # one value per micro-batch
        metrics = {m: [float(v) for v in found[m]] for m in METRICS}
        log.append({"loss": loss_sum / total, "grad_norm": norm, "metrics": metrics})
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    tensors |= {f"{reference}.final.{key(n)}": p.detach().clone() for n, p in named}
    return log, tensors


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(SEED)
    drawn = pairs(generator, 3 * (2 + 3))
    # micro-batches of two and of three pairs in turn
    pool = [m for i in range(3) for m in (drawn[5 * i : 5 * i + 2], drawn[5 * i + 2 : 5 * i + 5])]
    reference, tensors = {}, {}
    for kind in ("base", "adapter"):
        reference[kind], found = run(kind, pool)
        tensors |= found
        losses = [entry["loss"] for entry in reference[kind]]
        print(kind, "loss", losses[0], "->", losses[-1], "margins", reference[kind][-1]["metrics"]["rewards/margins"])
    out = {
        "versions": {p: version(p) for p in PACKAGES},
        "case": CASE.name,
        "seed": SEED,
        "beta": BETA,
        "micro_batches": pool,  # step s takes number 2s and 2s+1, from the start again after the last
        "optimizer": OPTIMIZER | {"warmup_steps": WARMUP, "lr_scheduler_type": "linear"},
        "runs": reference,
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "reference.json").write_text(json.dumps(out) + "\n")
    made = json.dumps(out["versions"] | {"seed": SEED})
    save_file({k: v.contiguous() for k, v in tensors.items()}, OUT / "reference.safetensors", {"made_with": made})


if __name__ == "__main__":
    main()
