"""transformers on the CPU as a serving peer (see peer-process.ts): bf16, SDPA attention, the head on the last token only.

    python3 bench/peers/torch_serving.py --folder DIR --threads N

Runs {"what": "logits", "tokens": [...]}, {"what": "prefill", "tokens": [...]} (to the first greedy token) and
{"what": "decode", "tokens": [...], "steps": n} (n greedy tokens after the prompt and one more, which are not timed).
"""

import argparse
import json
import sys
import time

import torch
import transformers


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.folder, dtype=torch.bfloat16, attn_implementation="sdpa"
    ).eval()

    def forward(ids, past=None):
        return model(input_ids=torch.tensor([ids]), past_key_values=past, use_cache=True, logits_to_keep=1)

    def logits(tokens, _steps):
        start = time.perf_counter()
        found = forward(tokens).logits[0, -1].float()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "token": int(found.argmax()), "logprobs": found.log_softmax(-1).tolist()}

    def prefill(tokens, _steps):
        start = time.perf_counter()
        token = int(forward(tokens).logits[0, -1].argmax())
        return {"seconds": time.perf_counter() - start, "token": token}

    def decode(tokens, steps):
        out = forward(tokens)
        drawn = [int(out.logits[0, -1].argmax())]
        start = time.perf_counter()
        for _ in range(steps):
            out = forward(drawn[-1:], out.past_key_values)
            drawn.append(int(out.logits[0, -1].argmax()))
        return {"seconds": time.perf_counter() - start, "tokens": drawn}

    runs = {"logits": logits, "prefill": prefill, "decode": decode}

    def answer(value):
        print(json.dumps(value), flush=True)

    answer({"ready": True, "torch": torch.__version__, "transformers": transformers.__version__,
            "threads": torch.get_num_threads()})
    for line in sys.stdin:
        run = json.loads(line)["run"]
        try:
            with torch.inference_mode():
                answer(runs[run["what"]](run["tokens"], run.get("steps")))
        except Exception as error:  # told to whoever asked, who stops
            answer({"error": repr(error)})


main()
