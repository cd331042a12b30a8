"""Upload, fine-tune, follow, chat: with the official SDK, as one would against OpenAI.

    npm start                                   (in another terminal; it prints the key)
    pip install openai
    OPENAI_API_KEY=sk-lathe-… OPENAI_BASE_URL=http://127.0.0.1:8080/v1 python examples/fine_tune.py
"""

import time
from pathlib import Path

from openai import OpenAI

client = OpenAI()  # reads OPENAI_API_KEY and OPENAI_BASE_URL
data = Path(__file__).parent / "data"


def upload(name: str) -> str:
    with open(data / name, "rb") as file:
        return client.files.create(file=file, purpose="fine-tune").id


job = client.fine_tuning.jobs.create(
    model="lathe-tiny",
    training_file=upload("train.jsonl"),
    validation_file=upload("valid.jsonl"),
    suffix="orders",
    # What Lathe takes beyond OpenAI travels in extra_body.
    extra_body={"adapter": {"r": 16}, "trainer": {"lr_scheduler_type": "cosine"}},
)
print("created", job.id)

seen = set()
while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(1)
    events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
    for event in reversed(events):
        if event.id not in seen:
            print(event.message)
        seen.add(event.id)
    job = client.fine_tuning.jobs.retrieve(job.id)
if not job.fine_tuned_model:
    raise SystemExit(job.error.message if job.error else f"the job was {job.status}")

stream = client.chat.completions.create(
    model=job.fine_tuned_model,
    messages=[
        {"role": "system", "content": "You take orders for the shop."},
        {"role": "user", "content": "Hi, Ann here. Three blue cups for Friday, please."},
    ],
    temperature=0,
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
