#!/usr/bin/env bash
# Counts the words of a text: the payload on standard input, the result on standard output.
set -u
payload=$(cat)
if [[ $payload =~ \"text\":\ *\"([^\"\\]*)\" ]]; then
    text=${BASH_REMATCH[1]}
elif [[ $payload != [\{\[]* && $payload != [0-9]* ]]; then
    text=$payload
else
    exit 65 # Trying again cannot help.
fi
read -ra words <<<"$text"
printf '{"words": %d}\n' "${#words[@]}"
