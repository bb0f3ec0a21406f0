-- Cancels jobs that wait, and asks those that run to stop.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: 1 to pass over those that run (a purge), packed request (grace in ms and who asks), then the ids.
-- Answers one letter each: C cancelled, R requested, T it was over already, N there is no such job.
-- O(log n) each; n jobs wait for a time.
local purges, request, answers = ARGV[1] == '1', ARGV[2], {}
call('HDEL', B .. 'n', '')
advance(100)
for n = 3, #ARGV do
  local id = ARGV[n]
  local s = find(id)
  local answer
  if not s then
    answer = (rows[id] or stone_of(id) == 'E') and 'T' or 'N'
  elseif s.state > RUNNING then
    answer = 'T'
  elseif s.state < RUNNING then
    finish(s, CANCELLED)
    answer = 'C'
  else
    answer = 'R'
    if not purges then
      local asked = has(s.flags, CANCELLING) and call('HGET', B .. 'i', id .. 'c')
      -- A later request may only shorten the grace of the first.
      local grace = unpick('<I6', request)
      s.flags = with(s.flags, CANCELLING)
      detail(s, 'c', asked and pack('<I6', math.min(grace, (unpick('<I6', asked)))) .. asked:sub(7) or request)
      keep(s)
      tell(s, 'cancel_requested')
    end
  end
  answers[#answers + 1] = answer
end
flush()
return answers
