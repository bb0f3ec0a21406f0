-- All that is kept of jobs.
-- ARGV: ids.
-- Answers { now in ms, then for each: record or nothing, status or nothing, G if it was forgotten, the details r e h p l k c }.
-- O(1) each.
local answer = { now }
unfold(ARGV)
for _, id in ipairs(ARGV) do
  local record = call('HGET', B .. 'j', id)
  answer[#answer + 1] = record or ''
  answer[#answer + 1] = call('HGET', B .. 's', id) or ''
  answer[#answer + 1] = not record and forgotten_of({ id })[1] and 'G' or ''
  local fields = {}
  for n, letter in ipairs(LETTERS) do fields[n] = id .. letter end
  local details = record and call('HMGET', B .. 'i', unpack(fields)) or {}
  for n in ipairs(LETTERS) do answer[#answer + 1] = details[n] and 'x' .. details[n] or '' end
end
return answer
