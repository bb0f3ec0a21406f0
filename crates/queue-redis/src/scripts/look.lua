-- All that is kept of jobs.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: ids.
-- Answers { now in ms, then for each: record or nothing, status or nothing, G if it was forgotten, the details r e h p l k c }.
-- O(1) each, and, where one has no status, O(n) for n jobs that run and were claimed together.
local answer = { now }
local states = #ARGV > 0 and call('HMGET', B .. 's', unpack(ARGV)) or {}

-- The statuses that jobs would have which were claimed together. It is not written down: who looks must be answered where nothing can be.
local function states_of_many()
  local wanted, found = {}, {}
  for n, id in ipairs(ARGV) do wanted[id] = not states[n] or nil end
  if not next(wanted) or call('EXISTS', B .. 'q') == 0 then return found end
  local all = call('HGETALL', B .. 'q')
  for n = 1, #all, 2 do
    local c = tonumber(all[n]) and read_claim(all[n + 1])
    local head, tail
    for place = 1, c and #c.held or 0 do
      local id = c.ids:sub(16 * place - 15, 16 * place)
      if wanted[id] and c.held[place] == 1 then
        if not head then head, tail = status_around(c) end
        found[id] = head .. pack('<I8I6', all[n] + place, all[n] + place) .. tail
      end
    end
  end
  return found
end

local together = states_of_many()
for at, id in ipairs(ARGV) do
  local record = call('HGET', B .. 'j', id)
  answer[#answer + 1] = record or ''
  answer[#answer + 1] = states[at] or record and together[id] or ''
  answer[#answer + 1] = not record and forgotten_of({ id })[1] and 'G' or ''
  local fields = {}
  for n, letter in ipairs(LETTERS) do fields[n] = id .. letter end
  local details = record and call('HMGET', B .. 'i', unpack(fields)) or {}
  for n in ipairs(LETTERS) do answer[#answer + 1] = details[n] and 'x' .. details[n] or '' end
end
return answer
