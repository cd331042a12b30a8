"""The matrix in Python: the official openai package with strict response validation, against a running service.

    LATHE_URL=http://127.0.0.1:8080 LATHE_KEY=sk-lathe-… LATHE_ADMIN_KEY=sk-lathe-admin-… python test/contract/matrix.py

Prints one line per area and exits with 1 at the first answer that is not what OpenAI's types say. The service must hold
`lathe-tiny` and have a trainer; `node scripts/setup.mjs test/contract/run-matrix-py.ts` starts one and runs this.
"""

import hashlib
import io
import json
import os
import time

import openai
from openai import OpenAI

MODEL = "lathe-tiny"
client = OpenAI(
    base_url=os.environ["LATHE_URL"] + "/v1",
    api_key=os.environ["LATHE_KEY"],
    _strict_response_validation=True,
)
admin = OpenAI(
    base_url=os.environ["LATHE_URL"] + "/v1",
    api_key=os.environ["LATHE_KEY"],
    admin_api_key=os.environ["LATHE_ADMIN_KEY"],
    _strict_response_validation=True,
)
MESSAGES = [{"role": "user", "content": "How old is Ann?"}]
AREA = f"python {time.time()}"
ENDS = {"succeeded", "failed", "cancelled"}


def named(text, filename="data.jsonl"):
    file = io.BytesIO(text.encode())
    file.name = filename
    return file


def chat_rows(count, start=0):
    rows = [
        {"messages": [{"role": "user", "content": f"How many is {i} and one?"},
                      {"role": "assistant", "content": f"It is {i + 1}."}]}
        for i in range(start, start + count)
    ]
    return "\n".join(json.dumps(row) for row in rows)


def refused(call, status, param):
    try:
        call()
    except openai.APIStatusError as error:
        assert (error.status_code, error.param) == (status, param), (error.status_code, error.param, error.message)
        return error
    raise AssertionError(f"expected {status} for {param}")


def until(retrieve, states, seconds=90):
    end = time.monotonic() + seconds
    while True:
        found = retrieve()
        if found.status in states:
            return found
        assert time.monotonic() < end, found
        time.sleep(0.1)


def files():
    for purpose in ["assistants", "batch", "fine-tune", "user_data"]:  # the types know no answer for "evals"
        file = client.files.create(
            file=named(chat_rows(1)), purpose=purpose, expires_after={"anchor": "created_at", "seconds": 7200}
        )
        assert file.expires_at == file.created_at + 7200
        assert client.files.wait_for_processing(file.id, poll_interval=0.01).id == file.id
        assert client.files.retrieve(file.id).filename == "data.jsonl"
        if purpose == "fine-tune":
            assert client.files.content(file.id).text == chat_rows(1)
        assert client.files.delete(file.id).deleted
    made = [client.files.create(file=named("x", "x.txt"), purpose="user_data").id for _ in range(3)]
    listed = [file.id for file in client.files.list(purpose="user_data", limit=2, order="asc")]
    assert listed == made, listed
    for file_id in made:
        client.files.delete(file_id)
    refused(lambda: client.files.retrieve("file-nobody"), 404, "id")


def uploads():
    text = chat_rows(4)
    first, second = text[:50], text[50:]
    upload = client.uploads.create(
        filename="parts.jsonl", purpose="fine-tune", bytes=len(text), mime_type="application/jsonl"
    )
    part_b = client.uploads.parts.create(upload.id, data=named(second))
    part_a = client.uploads.parts.create(upload.id, data=named(first))
    done = client.uploads.complete(
        upload.id, part_ids=[part_a.id, part_b.id], md5=hashlib.md5(text.encode()).hexdigest()
    )
    assert done.status == "completed" and done.file.bytes == len(text)
    other = client.uploads.create(filename="x.jsonl", purpose="fine-tune", bytes=3, mime_type="text/plain")
    assert client.uploads.cancel(other.id).status == "cancelled"


def train(**params):
    rows = params.pop("rows", None) or chat_rows(12)
    file = client.files.create(file=named(rows), purpose="fine-tune")
    return client.fine_tuning.jobs.create(
        training_file=file.id,
        extra_body={"trainer": {"max_steps": params.pop("steps", 2), "save_steps": 1}},
        **{"model": MODEL, **params},
    )


def jobs():
    api = client.fine_tuning.jobs
    valid = client.files.create(file=named(chat_rows(3, 40)), purpose="fine-tune")
    job = train(
        validation_file=valid.id,
        suffix="matrix",
        seed=11,
        metadata={"area": AREA},
        integrations=[{"type": "wandb", "wandb": {"project": "p", "tags": ["a"]}}],
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 4}}},
    )
    done = until(lambda: api.retrieve(job.id), ENDS)
    assert done.status == "succeeded" and done.fine_tuned_model.startswith("ft:lathe-tiny:"), done
    events = list(api.list_events(job.id, limit=3))
    assert any(event.type == "metrics" for event in events) and len(events) > 5
    checkpoints = list(api.checkpoints.list(job.id, limit=1))
    assert checkpoints[0].fine_tuned_model_checkpoint == done.fine_tuned_model
    assert "train_loss" in client.files.content(done.result_files[0]).text
    assert [each.id for each in api.list(limit=5, extra_query={"metadata[area]": AREA})] == [job.id]
    assert job.id in [each.id for each in api.list(limit=1, metadata={"area": AREA})]

    paused = train(steps=400)
    until(lambda: api.retrieve(paused.id), {"running"})
    api.with_raw_response.pause(paused.id)  # 'paused' is outside of the SDK's own enum
    end = time.monotonic() + 60
    while json.loads(api.with_raw_response.retrieve(paused.id).text)["status"] != "paused":
        assert time.monotonic() < end
        time.sleep(0.1)
    assert api.resume(paused.id).status in {"queued", "running"}
    api.cancel(paused.id)
    assert until(lambda: api.retrieve(paused.id), ENDS).status == "cancelled"
    refused(lambda: api.cancel(paused.id), 400, None)

    pairs = [
        {"input": {"messages": [{"role": "user", "content": f"Say {i}."}]},
         "preferred_output": [{"role": "assistant", "content": f"It is {i}."}],
         "non_preferred_output": [{"role": "assistant", "content": "No."}]}
        for i in range(10)
    ]
    dpo = train(
        rows="\n".join(json.dumps(row) for row in pairs),
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 1}}},
    )
    assert until(lambda: api.retrieve(dpo.id), ENDS).status == "succeeded"
    more = train(model=done.fine_tuned_model)
    assert until(lambda: api.retrieve(more.id), ENDS).status == "succeeded"

    project = admin.admin.organization.projects.create(name="python")
    permissions = admin.fine_tuning.checkpoints.permissions
    made = list(permissions.create(done.fine_tuned_model, project_ids=[project.id]))
    listed = list(permissions.list(done.fine_tuned_model, order="ascending"))
    assert [each.id for each in listed] == [each.id for each in made]
    assert permissions.delete(made[0].id, fine_tuned_model_checkpoint=done.fine_tuned_model).deleted

    names = [model.id for model in client.models.list()]
    assert MODEL in names and done.fine_tuned_model in names
    assert client.models.retrieve(done.fine_tuned_model).id == done.fine_tuned_model
    answer = client.chat.completions.create(model=done.fine_tuned_model, messages=MESSAGES, max_completion_tokens=4)
    assert answer.model == done.fine_tuned_model
    assert client.models.delete(done.fine_tuned_model).deleted
    refused(lambda: client.models.retrieve(done.fine_tuned_model), 404, "model")


def graders():
    api = client.fine_tuning.alpha.graders
    check = {"type": "string_check", "name": "check", "operation": "eq",
             "input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
    near = {"type": "text_similarity", "name": "near", "evaluation_metric": "bleu",
            "input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
    both = {"type": "multi", "name": "both", "graders": {"check": check, "near": near},
            "calculate_output": "check * 2 - near"}
    judge = {"type": "score_model", "name": "judge", "model": MODEL, "range": [0, 1],
             "input": [{"role": "user", "content": "Rate {{sample.output_text}}"}],
             "sampling_params": {"temperature": 0, "max_completions_tokens": 200}}
    for grader, reward in [(check, 1), (near, 1), (both, 1)]:
        run = api.run(grader=grader, model_sample="Paris in spring time", item={"answer": "Paris in spring time"})
        assert abs(run.reward - reward) < 1e-9, run
        api.with_raw_response.validate(grader=grader)
    assert 0 <= api.run(grader=judge, model_sample="Paris").reward <= 1
    refused(lambda: api.run(grader={"type": "python", "name": "p", "source": "x"}, model_sample=""), 400, "grader.type")


def chat():
    api = client.chat.completions
    answer = api.create(
        model=MODEL, messages=MESSAGES, max_completion_tokens=5, temperature=0.5, top_p=0.9, frequency_penalty=0.1,
        presence_penalty=0.1, logit_bias={"5": -1}, logprobs=True, top_logprobs=2, n=2, stop=["\n\n"], seed=3, user="u",
        metadata={"a": AREA}, service_tier="auto", reasoning_effort="low", verbosity="low", modalities=["text"],
        parallel_tool_calls=True, store=True,
    )
    assert len(answer.choices) == 2 and len(answer.choices[0].logprobs.content[0].top_logprobs) == 2
    assert [each.id for each in api.list(metadata={"a": AREA})] == [answer.id]
    assert api.retrieve(answer.id).id == answer.id
    # The types call every stored message an assistant's; OpenAI's own examples are the user's.
    kept = json.loads(api.messages.with_raw_response.list(answer.id).text)
    assert [each["content"] for each in kept["data"]] == [MESSAGES[0]["content"]]
    assert api.update(answer.id, metadata={"a": "c"}).metadata == {"a": "c"}
    assert api.delete(answer.id).deleted

    chunks = list(api.create(model=MODEL, messages=MESSAGES, max_tokens=6, stream=True,
                             stream_options={"include_usage": True}))
    assert chunks[-1].usage.completion_tokens > 0 and chunks[-2].choices[0].finish_reason

    schema = {"type": "object", "properties": {"name": {"type": "string", "enum": ["Ann", "Bob"]}},
              "required": ["name"], "additionalProperties": False}
    formatted = api.create(
        model=MODEL, messages=MESSAGES,
        response_format={"type": "json_schema", "json_schema": {"name": "who", "schema": schema, "strict": True}},
    )
    assert json.loads(formatted.choices[0].message.content)["name"] in {"Ann", "Bob"}
    tool = {"type": "function", "function": {"name": "look_up", "parameters": schema, "strict": True}}
    called = api.create(model=MODEL, messages=MESSAGES, tools=[tool], tool_choice="required")
    call = called.choices[0].message.tool_calls[0]
    assert call.function.name == "look_up" and json.loads(call.function.arguments)["name"] in {"Ann", "Bob"}
    refused(lambda: api.create(model=MODEL, messages=MESSAGES, temperature=3), 400, "temperature")
    refused(lambda: api.create(model="nobody", messages=MESSAGES), 404, "model")


def completions():
    api = client.completions
    answer = api.create(model=MODEL, prompt="Ann is", max_tokens=4, n=2, best_of=3, logprobs=2)
    assert len(answer.choices) == 2 and len(answer.choices[0].logprobs.tokens) > 0
    # The first token of an echo has no log probability: null, as OpenAI answers it, is outside of the types.
    raw = api.with_raw_response.create(model=MODEL, prompt="Ann is", max_tokens=4, echo=True, logprobs=2)
    choice = json.loads(raw.text)["choices"][0]
    assert choice["text"].startswith("Ann is") and choice["logprobs"]["token_logprobs"][0] is None
    assert len(api.create(model=MODEL, prompt=["Ann", "Bob"], max_tokens=2).choices) == 2


def batches():
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions",
         "body": {"model": MODEL, "messages": MESSAGES, "max_completion_tokens": 4, **fields}}
        for name, fields in [("a", {}), ("b", {"temperature": 7})]
    ]
    file = client.files.create(file=named("\n".join(json.dumps(line) for line in lines)), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
    )
    done = until(lambda: client.batches.retrieve(batch.id), {"completed", "failed", "expired", "cancelled"})
    assert done.status == "completed" and done.request_counts.completed == 1 and done.request_counts.failed == 1
    assert json.loads(client.files.content(done.output_file_id).text)["custom_id"] == "a"
    assert json.loads(client.files.content(done.error_file_id).text)["custom_id"] == "b"
    assert batch.id in [each.id for each in client.batches.list(limit=1)]
    refused(lambda: client.batches.cancel(batch.id), 409, None)


def administration():
    projects = admin.admin.organization.projects
    project = projects.create(name="python administration")
    assert projects.update(project.id, name="python").name == "python"
    assert project.id in [each.id for each in projects.list(limit=1)]
    account = projects.service_accounts.create(project.id, name="bot", expires_in_seconds=600)
    assert account.role == "member" and account.api_key.value.startswith("sk-lathe-")
    assert projects.service_accounts.update(account.id, project_id=project.id, role="owner").role == "owner"
    key = projects.service_accounts.api_keys.create(account.id, project_id=project.id, scopes=["api.files.read"])
    assert {key.id, account.api_key.id} == {each.id for each in projects.api_keys.list(project.id, limit=1)}
    reader = OpenAI(base_url=client.base_url, api_key=key.value, max_retries=0)
    assert list(reader.files.list()) == []
    refused(lambda: reader.models.list(), 403, None)
    changed = projects.api_keys.update(key.id, project_id=project.id, scopes=["api.all.read"], expires_in_seconds=60)
    assert changed.owner.service_account.id == account.id and changed.expires_at is not None
    limit = next(each for each in projects.rate_limits.list_rate_limits(project.id) if each.model == MODEL)
    changed = projects.rate_limits.update_rate_limit(limit.id, project_id=project.id, max_requests_per_1_minute=1)
    assert changed.max_requests_per_1_minute == 1 and changed.max_tokens_per_1_minute == limit.max_tokens_per_1_minute
    keys = admin.admin.organization.admin_api_keys
    second = keys.create(name="second", expires_in_seconds=60)
    assert keys.retrieve(second.id).name == "second" and second.id in [each.id for each in keys.list(limit=1)]
    assert keys.delete(second.id).deleted
    assert projects.service_accounts.delete(account.id, project_id=project.id).deleted
    refused(lambda: projects.api_keys.retrieve(key.id, project_id=project.id), 404, "api_key_id")
    assert projects.archive(project.id).status == "archived"


def errors():
    stranger = OpenAI(base_url=client.base_url, api_key="sk-lathe-wrong")
    try:
        stranger.models.list()
    except openai.AuthenticationError as error:
        assert error.code == "invalid_api_key"
    else:
        raise AssertionError("a wrong key was taken")


if __name__ == "__main__":
    for area in [files, uploads, jobs, graders, chat, completions, batches, administration, errors]:
        started = time.monotonic()
        area()
        print(f"ok {area.__name__} ({time.monotonic() - started:.1f} s)", flush=True)
