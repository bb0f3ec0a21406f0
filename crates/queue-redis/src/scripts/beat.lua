-- Keeps leases alive, marks starts, carries progress and logs out and requests to stop in.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: for each beat: packed head, progress, then its log lines.
-- Answers two each: ms that the lease has left, or -1 for lost; the request to stop, or nothing.
-- O(log n); n jobs are leased or wait for a time.
local items, at = {}, 1
while at <= #ARGV do
  local item = { logs = {} }
  local lines
  item.id, item.epoch, item.flags, item.extend, lines = unpick('<c16I8BI6H', ARGV[at])
  item.progress = ARGV[at + 1]
  for n = 1, lines do item.logs[n] = ARGV[at + 1 + n] end
  at = at + 2 + lines
  items[#items + 1] = item
end
local STARTED, EXTENDS, PROGRESS = 1, 2, 4

-- Where each line begins.
local starts_of = readable(function(text)
  local starts, place = {}, 1
  while place <= #text do
    starts[#starts + 1] = place
    place = place + 2 + unpick('<H', text, place)
  end
  return starts
end)

-- The newest lines, each with its length before it. Old ones that cannot be read are given up.
local function log(item, s)
  local old, lines = call('HGET', B .. 'i', item.id .. 'l') or '', {}
  for n, line in ipairs(item.logs) do lines[n] = pack('<Hc0', #line, line) end
  local new = table.concat(lines)
  local text, starts = old .. new, starts_of(old) and starts_of(old .. new)
  if not starts then text, starts = new, starts_of(new) end
  if #starts > 100 then text = text:sub(starts[#starts - 99]) end
  detail(item.id, s, 'l', text)
end

local ids, answers, known = {}, {}, {}
for n, item in ipairs(items) do ids[n] = item.id end
unfold(ids)
local states = call('HMGET', B .. 's', unpack(ids))
for n, item in ipairs(items) do
  local s = known[item.id] or (states[n] and read_status(states[n]))
  if s and s.state == RUNNING and s.epoch == item.epoch then
    known[item.id] = s
    if has(item.flags, STARTED) and not has(s.flags, MARKED) then
      s.flags, s.started = with(s.flags, MARKED), s.started + 1
    end
    if #item.logs > 0 then log(item, s) end
    if has(item.flags, PROGRESS) then
      detail(item.id, s, 'p', item.progress)
      tell(item.id, s, 'progress')
    end
    if has(item.flags, EXTENDS) then wait_until(item.id, s, now + item.extend) end
    keep(item.id, s)
    answers[#answers + 1] = math.max(0, s.turn - now)
    answers[#answers + 1] = has(s.flags, CANCELLING) and call('HGET', B .. 'i', item.id .. 'c') or ''
  else
    answers[#answers + 1] = -1
    answers[#answers + 1] = ''
  end
end
flush()
return answers
