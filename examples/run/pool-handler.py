#!/usr/bin/env python3
# Counts the words of a text, in pool mode: one line of JSON for each job in, one out.
import json
import sys


def answer(job, **what):
    # Flushed each time: the queue waits for this line.
    print(json.dumps({"id": job["id"], **what}), flush=True)


for line in sys.stdin:
    job = json.loads(line)
    text = job["payload"].get("text") if isinstance(job["payload"], dict) else job["payload"]
    try:
        answer(job, progress={"percent": 50, "message": "counting"})
        answer(job, result={"words": len(text.split())})
    except Exception as error:
        # Anything that is wrong with the payload is wrong the next time too.
        permanent = isinstance(error, (AttributeError, KeyError, TypeError, ValueError))
        answer(job, error={"code": type(error).__name__, "message": str(error), "retryable": not permanent})
