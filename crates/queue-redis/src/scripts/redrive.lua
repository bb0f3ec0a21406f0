-- Gives dead jobs another life.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: 1 to count only, then for each job its packed head and its body, as it is to run.
-- Answers { matched, redriven, duplicates }.
-- O(log n) each; n jobs are dead.
local dry, report = ARGV[1] == '1', { 0, 0, 0 }
for n = 2, #ARGV, 2 do
  local job = read_new(ARGV[n], ARGV[n + 1])
  local id, row, state = job.id, call('HGET', B .. 'j', job.id), call('HGET', B .. 's', job.id)
  local s = row and read_record(row) and state and read_status(state)
  if s and s.state == DEAD then
    report[1] = report[1] + 1
    local held = job.unique and call('HGET', B .. 'u', job.unique)
    local till = held and held:sub(1, 16) ~= id and hold_ends(held)
    if till and (till == 0 or till > now) then
      report[3] = report[3] + 1
    elseif not dry then
      report[2] = report[2] + 1
      local r = read_record(row)
      local rank, head = tickets(1), ''
      if job.expires > 0 then
        head = pack('<I6', job.expires)
        call('ZADD', B .. 'x', job.expires, id)
      end
      if job.unique then
        head = head .. pack('<I6Hc0', job.window, #job.unique, job.unique)
        local until_ = job.window > 0 and now + job.window or 0
        call('HSET', B .. 'u', job.unique, id .. pack('<I6', until_))
        if until_ > 0 then call('ZADD', B .. 'w', until_, job.unique) end
      end
      call('HSET', B .. 'j', id, pack('<BBBI6I6I2I2', 1, job.flags, r.priority, r.submitted, rank, 1, 0) .. head .. job.body)
      call('ZREM', B .. 'd', id)
      call('HDEL', B .. 'i', id .. 'c')
      s.attempt, s.started, s.flags = 1, 0, without(without(s.flags, ORPHANED), CANCELLING)
      s.flags = job.expires > 0 and with(s.flags, ENDS) or without(s.flags, ENDS)
      move(s, PENDING)
      to_tail(id, s, rank)
      keep(id, s)
      tell(id, s, 'redriven')
    end
  end
end
flush()
return report
