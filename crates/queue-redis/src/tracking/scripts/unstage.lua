-- Takes back what the transport refused, where nobody but its first publisher can know of it.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: for each: packed id and generation.
-- Answers 1 for what is taken back, also where it was before, or was never written; 0 for what stands.
-- O(log n) each; n jobs are staged.
advance(100)
local ids, answers = {}, {}
for n = 1, #ARGV do ids[n] = ARGV[n]:sub(1, 16) end
load(ids)
for n, id in ipairs(ids) do
  local generation, s = unpick('<I4', ARGV[n], 17), rows[id]
  answers[n] = 0
  if not s then
    answers[n] = stone_of(id) == 'E' and 0 or 1
  elseif is_staged(s, generation) and has(s.flags, REDRIVEN) then
    -- Dead as before, with the error it died of.
    finish(s, DEAD)
    answers[n] = 1
  elseif is_staged(s, generation) and not has(s.flags, PROMISED) then
    free(s, true)
    count('submitted', -1)
    forget(s, 'z')
    flush()
    answers[n] = 1
  end
end
flush()
return answers
