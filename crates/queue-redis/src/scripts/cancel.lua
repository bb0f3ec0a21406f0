-- Cancels jobs that wait and asks those that run to stop.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: tracked (1 or 0), packed request (grace in ms and who asks), then the ids.
-- Answers one letter each: C cancelled, R requested, T it was over already, N there is no such job, U it cannot be read.
-- O(log n); n jobs wait for a time.
local tracked, request = ARGV[1] == '1', ARGV[2]
local answers = {}
unfold({ unpack(ARGV, 3) })
for n = 3, #ARGV do
  local id = ARGV[n]
  local row = call('HGET', B .. 'j', id)
  if not row then
    answers[n - 2] = forgotten_of({ id })[1] and 'T' or 'N'
  else
    local r = read_record(row)
    local state = call('HGET', B .. 's', id)
    local s = state_of(state, r)
    if not s then
      answers[n - 2] = 'U'
    elseif s.state == RUNNING then
      local asked = has(s.flags, CANCELLING) and call('HGET', B .. 'i', id .. 'c')
      -- A later request may only shorten the grace of the first.
      local grace = unpick('<I6', request)
      local text = asked and #asked >= 6 and pack('<I6', math.min(grace, (unpick('<I6', asked)))) .. asked:sub(7) or request
      s.flags = with(s.flags, CANCELLING)
      detail(id, s, 'c', text)
      keep(id, s)
      tell(id, s, 'cancel_requested', r)
      answers[n - 2] = 'R'
    elseif s.state > RUNNING then
      answers[n - 2] = 'T'
    else
      if has(s.flags, PARKED) then leave_key(id, s) end
      call('ZREM', B .. 'h', id)
      wait_no_more(id, s)
      finish(id, s, CANCELLED, tracked, r)
      answers[n - 2] = 'C'
    end
  end
end
flush()
return answers
