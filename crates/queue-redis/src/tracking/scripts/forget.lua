-- Forgets dead jobs; tombstones stay.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: ids.
-- Answers 1 or 0 each: it was dead.
-- O(log n) each; n jobs are dead.
local answers = {}
call('HDEL', B .. 'n', '')
for n, id in ipairs(ARGV) do
  local s = find(id)
  answers[n] = 0
  if s and s.state == DEAD then
    forget(s, 'g')
    flush()
    answers[n] = 1
  end
end
return answers
