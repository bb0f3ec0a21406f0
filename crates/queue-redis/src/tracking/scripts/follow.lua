-- Takes in follow-ups of jobs of other queues.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: stage lease in ms, then for each: provider, packed copy, record; no record: it is only asked for.
-- Answers 1 or 0 each: it is staged, and to be published.
-- O(log n) each; n jobs are staged or wait for a time.
local lease, answers = tonumber(ARGV[1]), {}
advance(100)
for n = 2, #ARGV, 3 do
  local copy = read_copy(ARGV[n + 1], ARGV[n + 2])
  if copy.record ~= '' then follow(copy, ARGV[n], lease) end
  answers[#answers + 1] = is_staged(find(copy.id), copy.generation) and 1 or 0
end
flush()
return answers
