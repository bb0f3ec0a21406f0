-- Keeps claims alive, marks starts, carries progress and logs in and requests to stop out.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: for each beat: packed head, progress, then its log lines.
-- Answers two each: ms that the lease has left, or -1 for lost; the request to stop, or nothing.
-- O(log n) each; n jobs run.
local STARTED, EXTENDS, PROGRESS = 1, 2, 4

-- The newest lines, each with its length before it.
local function log(s, lines)
  local text = call('HGET', B .. 'i', s.id .. 'l') or ''
  for _, line in ipairs(lines) do text = text .. pack('<Hc0', #line, line) end
  local starts, place = {}, 1
  while place <= #text do
    starts[#starts + 1] = place
    place = place + 2 + unpick('<H', text, place)
  end
  if #starts > 100 then text = text:sub(starts[#starts - 99]) end
  detail(s, 'l', text)
end

local answers, at = {}, 1
while at <= #ARGV do
  local id, epoch, generation, flags, extend, lines = unpick('<c16I8I4BI6H', ARGV[at])
  local s = find(id)
  if s and s.state == RUNNING and s.ticket == epoch and s.claimed == generation then
    if has(flags, STARTED) and not has(s.flags, MARKED) then s.flags, s.started = with(s.flags, MARKED), s.started + 1 end
    if lines > 0 then
      local logged = {}
      for n = 1, lines do logged[n] = ARGV[at + 1 + n] end
      log(s, logged)
    end
    if has(flags, PROGRESS) then
      detail(s, 'p', ARGV[at + 1])
      tell(s, 'progress')
    end
    if has(flags, EXTENDS) then s.turn = now + extend end
    keep(s)
    answers[#answers + 1] = math.max(0, s.turn - now)
    answers[#answers + 1] = has(s.flags, CANCELLING) and call('HGET', B .. 'i', id .. 'c') or ''
  else
    answers[#answers + 1] = -1
    answers[#answers + 1] = ''
  end
  at = at + 2 + lines
end
flush()
return answers
