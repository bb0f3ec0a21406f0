-- Stages another life for dead jobs.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: stage lease in ms, then for each: its packed copy, of the generation that was read, and its record.
-- Answers one string each: X it is not dead; G it is of another generation: read again; D and the 16 bytes of the id that holds its key;
-- S and the packed copy.
-- O(log n) each; n jobs are staged or dead.
local lease, answers = tonumber(ARGV[1]), {}
advance(100)
for n = 2, #ARGV, 2 do
  local copy = read_copy(ARGV[n], ARGV[n + 1])
  local s, outcome = find(copy.id), 'X'
  if s and s.state == DEAD then
    local r = read_record(copy.record)
    local holder = holder_of(r.unique, s.id)
    if copy.generation ~= s.generation then
      outcome = 'G'
    elseif holder then
      outcome = 'D' .. holder
    else
      move(s, PENDING, 'redriven')
      s.attempt, s.started, s.flags = 1, 0, without(without(s.flags, ORPHANED), CANCELLING)
      call('HDEL', B .. 'i', s.id .. 'c')
      replace(s, copy)
      if r.unique then hold(r.unique, r.window, s.id) end
      renew_copy(s)
      stage(s, now + lease, PROMISED)
      outcome = 'S' .. pack('<c16I2I4I4I4', s.id, s.place, s.generation, s.copy_attempt, s.copy_deliveries)
    end
  end
  answers[#answers + 1] = outcome
end
flush()
return answers
