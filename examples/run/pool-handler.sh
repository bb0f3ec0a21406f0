#!/usr/bin/env bash
# Counts the words of a text, in pool mode: one line of JSON for each job in, one out. `jq` would read any JSON; this one gets
# by without, for payloads that are a string, or an object with a "text", without quotes in it.
set -u
while read -r line; do
    id=${line#*'"id":"'}
    id=${id%%'"'*}
    payload=${line#*'"payload":'}
    if [[ $payload =~ ^\"([^\"\\]*)\" || $payload =~ \"text\":\ *\"([^\"\\]*)\" ]]; then
        printf '{"id":"%s","progress":{"percent":50,"message":"counting"}}\n' "$id"
        read -ra words <<<"${BASH_REMATCH[1]}"
        printf '{"id":"%s","result":{"words": %d}}\n' "$id" "${#words[@]}"
    else
        printf '{"id":"%s","error":{"code":"NoText","message":"there is no text in it","retryable":false}}\n' "$id"
    fi
done
