-- All that is kept of jobs.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: ids.
-- Answers { now in ms, then for each: record or nothing, row or nothing, E or W for a tombstone, the details r e h p l k c }.
-- O(1) each.
local answer = { now }
for _, id in ipairs(ARGV) do
  local row = call('HGET', B .. 's', id)
  answer[#answer + 1] = row and call('HGET', B .. 'j', id) or ''
  answer[#answer + 1] = row or ''
  answer[#answer + 1] = not row and stone_of(id) or ''
  local fields = {}
  for n, letter in ipairs(LETTERS) do fields[n] = id .. letter end
  local details = row and call('HMGET', B .. 'i', unpack(fields)) or {}
  for n in ipairs(LETTERS) do answer[#answer + 1] = details[n] and 'x' .. details[n] or '' end
end
return answer
