#!/usr/bin/env node
// Counts the words of a text, in pool mode: one line of JSON for each job in, one out.
import { createInterface } from "node:readline";

const answer = (job, what) => process.stdout.write(JSON.stringify({ id: job.id, ...what }) + "\n");

for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  const text = job.payload?.text ?? job.payload;
  if (typeof text === "string") {
    answer(job, { progress: { percent: 50, message: "counting" } });
    answer(job, { result: { words: text.split(/\s+/).filter(Boolean).length } });
  } else {
    answer(job, { error: { code: "NoText", message: "there is no text in it", retryable: false } });
  }
}
