#!/usr/bin/env bash
# curl: what there is, an answer, and a stream: bash curl.sh [URL [KEY]]
set -euo pipefail
url=${1:-http://127.0.0.1:8080/v1} key=${2:-none}

ask() {
    curl --silent --show-error --fail-with-body --no-buffer "$@" \
        -H "Authorization: Bearer $key" -H "Content-Type: application/json"
}

question='[{"role": "user", "content": "Start with 39. Multiply by 2. Subtract 18. Add 7. What is the result?"}]'
ask "$url/models/a1" && echo
ask "$url/chat/completions" -d "{\"model\": \"a1\", \"messages\": $question, \"a1\": {\"alpha\": 0.3}}" && echo
ask "$url/chat/completions" -d "{\"model\": \"a1+majority\", \"messages\": $question, \"stream\": true}"
