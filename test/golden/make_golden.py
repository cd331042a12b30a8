#!/usr/bin/env python3
"""Writes test/golden/data: small random models with what transformers and PEFT compute on them.

    python3 -m venv venv && venv/bin/pip install -r test/golden/requirements.txt
    venv/bin/python test/golden/make_golden.py

Run by hand when a case is added; `npm test` only reads the files. Everything is seeded, one thread, fp32 on the
CPU with eager attention, so a second run writes the same bytes. References are computed one sequence at a time:
the packed batches of the engine must reproduce them. The weight values are bf16-representable, so the same files
serve fp32 and bf16 runs.

Per case, in data/<name>/:
  config.json, model*.safetensors   the model, saved by transformers 5 (llama-llama3 in shards)
  config.v4.json                    the same config in the form transformers 4 wrote
  adapter_init/, adapter_final/     LoRA before and after the 20 steps, saved by PEFT
  adapter_rslora/                   (qwen2-yarn) rsLoRA on q_proj and v_proj only, saved by PEFT
  reference.json                    versions, seeds, batches, losses, learning rates, gradient norms
  reference.safetensors             logits.*, lora_grad.<PEFT key>, grad.<parameter name>
"""

import copy
import json
import pathlib
import shutil
from importlib.metadata import version

import torch
import torch.nn.functional as F
from models import CASES, SEVEN, Case
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, get_linear_schedule_with_warmup

DATA = pathlib.Path(__file__).parent / "data"
PACKAGES = ["torch", "transformers", "peft", "safetensors"]
STEPS, WARMUP, MICRO_BATCHES = 20, 4, 2
OPTIMIZER = dict(
    learning_rate=5e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.01, max_grad_norm=1.0
)
LORA = dict(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=SEVEN, task_type="CAUSAL_LM")
IGNORED = -100


def random_weights(model, generator):
    """Unit-gain random weights: attention and norms are far from the trivial state that small inits give."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith("norm.weight"):
            value = 1 + 0.25 * noise
        elif name.endswith("bias"):
            value = 0.3 * noise
        elif "embed_tokens" in name or "lm_head" in name:
            value = 0.1 * noise
        else:
            value = noise / p.shape[1] ** 0.5
        p.data.copy_(value.bfloat16().float())


def sequences(generator, vocab, lengths):
    """Token sequences with something to learn (next = 3·previous + 7 most of the time) and about a third unlabelled."""
    out = []
    for length in lengths:
        ids = [int(torch.randint(3, vocab, (1,), generator=generator))]
        while len(ids) < length:
            noise = torch.rand(1, generator=generator) < 0.2
            ids.append(int(torch.randint(3, vocab, (1,), generator=generator)) if noise else (3 * ids[-1] + 7) % vocab)
        prompt = length // 3
        labels = [IGNORED] * prompt + ids[prompt:]
        out.append({"ids": ids, "labels": labels})
    return out


def labelled(batch):
    return sum(label != IGNORED for s in batch for label in s["labels"][1:])


def forward(model, batch):
    """Logits [T, V] of all sequences laid end to end, summed loss, and the number of right predictions."""
    logits, loss, correct = [], torch.zeros(()), 0
    for s in batch:
        out = model(input_ids=torch.tensor([s["ids"]])).logits[0].float()
        target = torch.tensor(s["labels"][1:] + [IGNORED])
        loss = loss + F.cross_entropy(out, target, ignore_index=IGNORED, reduction="sum")
        correct += int(((out.argmax(-1) == target) & (target != IGNORED)).sum())
        logits.append(out)
    return torch.cat(logits), loss, correct


def gradients(model, batch, names):
    """Loss averaged over the labelled tokens; its gradients by name."""
    model.zero_grad()
    _, loss, _ = forward(model, batch)
    (loss / labelled(batch)).backward()
    found = {n: p.grad.float().clone() for n, p in model.named_parameters() if p.grad is not None and names(n)}
    model.zero_grad()
    return (loss / labelled(batch)).item(), found


def train(model, steps, learning_rate, no_decay=lambda name, p: False):
    """AdamW on the trainable parameters: per step the token-normalised loss, the learning rate, the norm before clip."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in named if not no_decay(n, p)], "weight_decay": OPTIMIZER["weight_decay"]},
        {"params": [p for n, p in named if no_decay(n, p)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=learning_rate,
        betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]),
        eps=OPTIMIZER["epsilon"],
        foreach=False,
    )
    schedule = get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS)
    log = []
    for micro_batches in steps:
        total = sum(labelled(b) for b in micro_batches)
        loss_sum = 0.0
        for batch in micro_batches:
            _, loss, _ = forward(model, batch)
            (loss / total).backward()
            loss_sum += loss.item()
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in named], OPTIMIZER["max_grad_norm"]).item()
        log.append({"loss": loss_sum / total, "learning_rate": schedule.get_last_lr()[0], "grad_norm": norm})
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return log


def wrap(model, generator, **over):
    """A PEFT model whose A and B are both random, so that neither gradient is zero."""
    wrapped = get_peft_model(copy.deepcopy(model), LoraConfig(**(LORA | over)))
    for name, p in wrapped.named_parameters():
        if "lora_A" in name:
            p.data.copy_((torch.rand(p.shape, generator=generator) * 2 - 1) / p.shape[1] ** 0.5)
        elif "lora_B" in name:
            p.data.copy_(0.05 * torch.randn(p.shape, generator=generator))
    return wrapped


def save_adapter(wrapped, folder, name):
    wrapped.peft_config["default"].base_model_name_or_path = name
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"  # PEFT writes the set of targets in hash order
    config = json.loads(path.read_text())
    config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True))


def save_model(model, case, folder):
    model = copy.deepcopy(model).to(getattr(torch, case.stored))
    model.save_pretrained(folder, **({"max_shard_size": case.shards} if case.shards else {}))
    old = json.loads((folder / "config.json").read_text())
    old = {k: v for k, v in old.items() if k not in ("rope_parameters", "dtype", "layer_types")}
    old |= case.v4_rope | {"torch_dtype": case.stored, "transformers_version": "4.51.0"}
    (folder / "config.v4.json").write_text(json.dumps(old, indent=2, sort_keys=True) + "\n")


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def peft_key(name):
    return name.replace(".default.", ".")


def bf16_section(model, wrapped, batch, logits, lora_grad, tensors):
    """What bf16 costs the reference itself, against its own fp32: the yardstick for ours."""
    low = copy.deepcopy(model).to(torch.bfloat16)
    with torch.no_grad():
        low_logits, low_loss, _ = forward(low, batch)
    tensors["logits.bf16"] = low_logits.bfloat16()
    low_wrapped = copy.deepcopy(wrapped)
    for name, p in low_wrapped.named_parameters():
        if "lora_" not in name:
            p.data = p.data.bfloat16()
    _, grads = gradients(low_wrapped, batch, lambda n: "lora_" in n)
    errors = [relative(g, lora_grad[peft_key(n)]) for n, g in grads.items()]
    return {
        "loss": low_loss.item() / labelled(batch),
        "logits_error_vs_fp32": relative(low_logits, logits),
        "lora_grad_error_vs_fp32_max": max(errors),
    }


def sliding_window(model, batch, window):
    """The same weights with every layer windowed (key j is seen by query i when i − j < window)."""
    config = copy.deepcopy(model.config)
    config.use_sliding_window, config.sliding_window, config.max_window_layers = True, window, 0
    config.layer_types = ["sliding_attention"] * config.num_hidden_layers
    other = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        return forward(other, batch)[0]


def make(case: Case):
    folder = DATA / case.name
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(case.seed)
    model = AutoModelForCausalLM.from_config(case.config, attn_implementation="eager").eval()
    random_weights(model, generator)
    save_model(model, case, folder)
    vocab = case.config.vocab_size
    batch = sequences(generator, vocab, [17, 1, 29, 2, 8])
    pool = [sequences(generator, vocab, [5 + 5 * i % 13, 4 + 7 * i % 19]) for i in range(3 * MICRO_BATCHES)]
    steps = [[pool[(MICRO_BATCHES * s + m) % len(pool)] for m in range(MICRO_BATCHES)] for s in range(STEPS)]
    with torch.no_grad():
        logits, loss, correct = forward(model, batch)
    reference = {
        "versions": {p: version(p) for p in PACKAGES},
        "seed": case.seed,
        "batch": batch,
        "micro_batches": pool,  # step s takes number 2s and 2s+1, from the start again after the last
        "base": {"loss": loss.item() / labelled(batch), "labelled": labelled(batch), "correct": correct},
        "optimizer": OPTIMIZER | {"warmup_steps": WARMUP, "lr_scheduler_type": "linear"},
    }
    tensors = {"logits.base": logits}

    whole = copy.deepcopy(model)
    _, grads = gradients(whole, batch, lambda n: case.full_gradients or n.endswith(("norm.weight", "bias")))
    tensors |= {f"grad.{n}": g for n, g in grads.items()}
    one_dimensional = lambda n, p: p.dim() < 2
    reference["full_steps"] = {
        "learning_rate": 1e-3,
        "log": train(whole, steps, learning_rate=1e-3, no_decay=one_dimensional),
    }

    wrapped = wrap(model, generator)
    save_adapter(wrapped, folder / "adapter_init", case.name)
    mean, grads = gradients(wrapped, batch, lambda n: "lora_" in n)
    lora_grad = {peft_key(n): g for n, g in grads.items()}
    tensors |= {f"lora_grad.{n}": g for n, g in lora_grad.items()}
    with torch.no_grad():
        tensors["logits.adapter_init"] = forward(wrapped, batch)[0][::3]
    reference["adapter_init"] = {"loss": mean}
    reference["bf16"] = bf16_section(model, wrapped, batch, logits, lora_grad, tensors)

    reference["steps"] = {"log": train(wrapped, steps, OPTIMIZER["learning_rate"])}
    save_adapter(wrapped, folder / "adapter_final", case.name)
    with torch.no_grad():
        tensors["logits.adapter_final"], loss, _ = forward(wrapped, batch)
        tensors["logits.adapter_final"] = tensors["logits.adapter_final"][::3]
        prompt = batch[0]["ids"][:7]
        reference["greedy"] = {"prompt": prompt, "completion": greedy(wrapped, prompt, 16)}
    reference["adapter_final"] = {"loss": loss.item() / labelled(batch)}

    if case.name == "qwen2-yarn":
        rslora = wrap(model, generator, use_rslora=True, target_modules=["q_proj", "v_proj"], r=3, lora_alpha=5)
        save_adapter(rslora, folder / "adapter_rslora", case.name)
        with torch.no_grad():
            tensors["logits.adapter_rslora"] = forward(rslora, batch)[0][::3]
    if case.name == "qwen3-tied":
        reference["sliding_window"] = 7
        tensors["logits.sliding_window"] = sliding_window(model, batch, 7)[::3]

    check_reload(case, folder, batch, logits)
    made = json.dumps(reference["versions"] | {"seed": case.seed})  # one key: the writer does not order them
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "reference.safetensors", {"made_with": made})
    (folder / "reference.json").write_text(json.dumps(reference) + "\n")
    return reference


def greedy(model, prompt, tokens):
    """Greedy continuation by full forwards (no cache), the margin of every choice checked to be unambiguous."""
    ids = list(prompt)
    for _ in range(tokens):
        top = model(input_ids=torch.tensor([ids])).logits[0, -1].topk(2)
        assert (top.values[0] - top.values[1]).item() > 1e-3, "ambiguous greedy choice: change the seed"
        ids.append(int(top.indices[0]))
    return ids[len(prompt) :]


def check_reload(case, folder, batch, logits):
    """The saved folder, with either form of the config, gives the same logits in transformers."""
    for form in ("config.json", "config.v4.json"):
        config = AutoConfig.for_model(**json.loads((folder / form).read_text()))
        again = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, attn_implementation="eager"
        )
        with torch.no_grad():
            assert torch.equal(forward(again, batch)[0], logits), f"{case.name}: {form} changes the logits"


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    print({p: version(p) for p in PACKAGES})
    for case in CASES:
        r = make(case)
        losses = [s["loss"] for s in r["steps"]["log"]]
        norms = [s["grad_norm"] for s in r["steps"]["log"]]
        print(f"{case.name}: loss {r['base']['loss']:.4f}, steps {losses[0]:.4f} -> {losses[-1]:.4f}, "
              f"norms {min(norms):.2f}..{max(norms):.2f}, bf16 {r['bf16']}")
    size = sum(f.stat().st_size for f in DATA.rglob("*") if f.is_file())
    print(f"{size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
