#!/usr/bin/env bash
# Upload, fine-tune, follow, chat: with curl and nothing else.
#
#   npm start                                   (in another terminal; it prints the key)
#   OPENAI_API_KEY=sk-lathe-… examples/fine-tune.sh
set -euo pipefail
base=${OPENAI_BASE_URL:-http://127.0.0.1:8080/v1}
data=$(cd "$(dirname "$0")" && pwd)/data

api() { curl -sS --fail-with-body -H "Authorization: Bearer $OPENAI_API_KEY" "$@"; }
# The text that a key has in a JSON answer of one line, in the last place that has the key; null is empty.
field() { sed -nE "s/.*\"$1\":(\"([^\"]*)\"|null).*/\2/p" | head -n 1; }
upload() { api "$base/files" -F purpose=fine-tune -F "file=@$data/$1" | field id; }

training=$(upload train.jsonl)
validation=$(upload valid.jsonl)
job=$(api "$base/fine_tuning/jobs" -H 'Content-Type: application/json' \
  -d "{\"model\":\"lathe-tiny\",\"training_file\":\"$training\",\"validation_file\":\"$validation\"}" | field id)
echo "created $job"

status=
until [[ $status =~ ^(succeeded|failed|cancelled)$ ]]; do
  sleep 2
  answer=$(api "$base/fine_tuning/jobs/$job")
  status=$(field status <<<"$answer")
  echo "$status: $(api "$base/fine_tuning/jobs/$job/events?limit=1" | field message)"
done
[[ $status == succeeded ]]

model=$(field fine_tuned_model <<<"$answer")
api -N "$base/chat/completions" -H 'Content-Type: application/json' -d "{\"model\":\"$model\",\"temperature\":0,
  \"messages\":[{\"role\":\"system\",\"content\":\"You take orders for the shop.\"},
                {\"role\":\"user\",\"content\":\"Hi, Ann here. Three blue cups for Friday, please.\"}]}"
echo
