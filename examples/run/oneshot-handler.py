#!/usr/bin/env python3
# Counts the words of a text: the payload on standard input, the result on standard output.
import json
import sys

payload = sys.stdin.read()
try:
    parsed = json.loads(payload)
except ValueError:
    parsed = payload
text = parsed.get("text") if isinstance(parsed, dict) else parsed
if not isinstance(text, str):
    sys.exit(65)  # Trying again cannot help.
print(json.dumps({"words": len(text.split())}))
