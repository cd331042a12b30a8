#!/usr/bin/env python3
"""Loads into PEFT and transformers what Lathe trained and saved, and compares the logits with Lathe's own.

    node test/golden/export_for_python.ts <folder> && python test/golden/verify_roundtrip.py <folder>

Run by hand, with the packages of requirements.txt. Any missing, unexpected or mismatched weight is an error.
"""

import json
import pathlib
import sys
import warnings
from importlib.metadata import version

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

DATA = pathlib.Path(__file__).parent / "data"
BOUND = 1e-5


def load_base(folder):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    problems = {key: value for key, value in info.items() if value}
    assert not problems, f"{folder}: {problems}"
    return model.eval()


def logits(model, name):
    batch = json.loads((DATA / name / "reference.json").read_text())["batch"]
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([s["ids"]])).logits[0] for s in batch])


def error(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def load_model(folder, kind):
    expected = torch.bfloat16 if kind == "model_bf16" else torch.float32
    stored = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert stored.dtype == expected, f"{folder} loads as {stored.dtype}"
    return load_base(folder)


def load_adapter(name, folder):
    model = PeftModel.from_pretrained(load_base(DATA / name), folder).eval()
    loaded = {k.replace(".default.", "."): v for k, v in model.named_parameters() if "lora_" in k}
    saved = load_file(folder / "adapter_model.safetensors")
    assert loaded.keys() == saved.keys(), loaded.keys() ^ saved.keys()
    assert all(torch.equal(loaded[k], saved[k]) for k in saved)
    return model


def main(out):
    warnings.simplefilter("error", UserWarning)
    torch.set_num_threads(1)
    print({p: version(p) for p in ("torch", "transformers", "peft", "safetensors")})
    worst = 0.0
    for case in sorted(p for p in DATA.iterdir() if p.is_dir()):
        base = logits(load_base(case), case.name)
        for kind in ("adapter", "adapter_rslora", "model", "model_bf16"):
            folder = out / case.name / kind
            model = load_model(folder, kind) if kind.startswith("model") else load_adapter(case.name, folder)
            got = logits(model, case.name)
            ours = load_file(f"{folder}.logits.safetensors")["logits"]
            difference, moved = error(got, ours), error(ours, base)
            print(f"{case.name}/{kind}: {difference:.2e} from Lathe's logits ({moved:.2f} from the base's)")
            assert moved > 0.02, "training changed nothing: the comparison would prove nothing"
            worst = max(worst, difference)
    print(f"largest {worst:.2e}, bound {BOUND:.0e}: {'ok' if worst <= BOUND else 'FAILED'}")
    return 0 if worst <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
