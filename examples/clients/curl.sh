#!/usr/bin/env bash
# The endpoint by hand. Usage: curl.sh http://127.0.0.1:8000 [KEY]; needs curl 7.82 or newer and a server with --users-db.
set -euo pipefail
url="$1"
ask() { curl --silent --show-error --fail-with-body --header "authorization: Bearer ${KEY}" "$@" && echo; }
KEY="${2:-none}"

echo "-- texts"
ask "$url/v1/rerank" --json '{"query": "a film for tonight", "documents": ["Notting Hill", "Aliens"], "history": ["Alien"]}'

echo "-- items of the catalogue, for a user; the guard decides"
ask "$url/v1/rerank" --json '{"user": "example-1", "item_ids": ["242", "302", "50"], "first_stage_scores": [0.9, 0.8, 0.7], "top_n": 2}'

echo "-- what the user did since; the next ranking knows"
ask "$url/v1/users/example-1/interactions" --json '{"interactions": [{"item_id": "181"}]}'

echo "-- and forget the user"
ask --request DELETE "$url/v1/users/example-1"
