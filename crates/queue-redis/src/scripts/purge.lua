-- Cancels jobs that wait, a part of them. What cannot be read is left to who can.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: tracked (1 or 0), how many at most, how many of those that wait for a time to pass over (they run, or cannot be read).
-- Answers { how many, how many to pass over next time, 1 if there is more }.
-- O(log n) each.
local tracked, most, skip = ARGV[1] == '1', tonumber(ARGV[2]), tonumber(ARGV[3])
unfold()
local ids = {}
local function gather(more)
  for _, id in ipairs(more or {}) do ids[#ids + 1] = id end
end
for priority = 15, 1, -1 do
  if #ids < most then gather(call('LPOP', B .. 'r' .. priority, most - #ids)) end
end
if #ids < most then
  local heads = call('ZPOPMIN', B .. 'h', most - #ids)
  for n = 1, #heads, 2 do ids[#ids + 1] = heads[n] end
end
local timed = #ids < most and call('ZRANGE', B .. 't', skip, skip + most - #ids - 1) or {}
gather(timed)
local purged, ran = 0, 0
local seen = {}
for n, id in ipairs(ids) do
  local row, state = call('HGET', B .. 'j', id), call('HGET', B .. 's', id)
  local r = row and read_record(row)
  local s = state_of(state, r)
  if s and s.state <= RETRYING and not seen[id] then
    seen[id] = true
    if has(s.flags, PARKED) then leave_key(id, s) end
    wait_no_more(id, s)
    finish(id, s, CANCELLED, tracked, r)
    purged = purged + 1
  elseif n > #ids - #timed then
    ran = ran + 1
  elseif row and not s then
    -- It is out of its line, and no less a job.
    call('ZADD', B .. 't', 'NX', now + UNREADABLE, id)
  end
end
flush()
return { purged, skip + ran, #ids >= most and 1 or 0 }
