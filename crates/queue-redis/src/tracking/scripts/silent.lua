-- Stages anew what the transport was to deliver and has not.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: stage lease in ms, provider, for how many ms it must have been silent, then ids to look at.
-- Answers for each that is silent: packed copy, record.
-- O(log n) each; n jobs are staged.
local lease, provider, at_least, answer = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), {}
advance(100)
for n = 4, #ARGV do
  local s = find(ARGV[n])
  local waits = s and s.state == PENDING and not has(s.flags, STAGED) and not has(s.flags, PARKED)
  if waits and s.provider == provider and s.changed + at_least <= now then hand_out(s, lease, answer) end
end
flush()
return answer
