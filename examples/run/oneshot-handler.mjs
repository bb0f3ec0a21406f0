#!/usr/bin/env node
// Counts the words of a text: the payload on standard input, the result on standard output.
import { readFileSync } from "node:fs";

const payload = readFileSync(0, "utf8");
let parsed = payload;
try {
  parsed = JSON.parse(payload);
} catch {
  // A text.
}
const text = parsed?.text ?? parsed;
if (typeof text !== "string") process.exit(65); // Trying again cannot help.
console.log(JSON.stringify({ words: text.split(/\s+/).filter(Boolean).length }));
