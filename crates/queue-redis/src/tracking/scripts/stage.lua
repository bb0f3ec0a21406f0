-- Records jobs before their transport has them.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: stage lease in ms, provider, then for each job: its packed copy with how long it is held (in ms and one; 0: not at all) and the
-- queue's bound, and its record.
-- Answers one string a job: S staged, A again, K known, F full, D and the 16 bytes of the id that holds its unique key.
-- O(1) a job, O(log n) for its places; n jobs are staged or wait for a time.
local lease, provider = tonumber(ARGV[1]), ARGV[2]
advance(100)

local copies, ids = {}, {}
for n = 3, #ARGV, 2 do
  local copy, at = read_copy(ARGV[n], ARGV[n + 1])
  copy.hold, copy.bound = unpick('<I6I6', ARGV[n], at)
  copies[#copies + 1] = copy
  ids[#ids + 1] = copy.id
end
load(ids)

-- A newer copy of a dead job gives it another life.
local function stage_redriven(s, copy)
  local r = read_record(copy.record)
  local holder = holder_of(r.unique, s.id)
  if holder then return 'D' .. holder end
  move(s, PENDING, 'redriven')
  s.attempt, s.started, s.flags = 1, 0, without(without(s.flags, ORPHANED), CANCELLING)
  call('HDEL', B .. 'i', s.id .. 'c')
  replace(s, copy)
  if r.unique then hold(r.unique, r.window, s.id) end
  stage(s, now + (copy.hold > 0 and copy.hold - 1 or lease), REDRIVEN)
  return 'S'
end

local function stage_known(s, copy)
  if s.state == DEAD and copy.generation > s.generation then return stage_redriven(s, copy) end
  if not is_staged(s, copy.generation) then return 'K' end
  -- Two publishers may be at it: what one is refused the other may have published.
  stage(s, math.max(s.stage_end, now + lease), PROMISED)
  announce(s)
  return 'A'
end

local waiting = 0
for _, jobs in ipairs(call('HMGET', B .. 'n', 'p', 's', 't')) do waiting = waiting + (jobs or 0) end
for _, s in ipairs(dirty) do
  if s.was_state <= RETRYING then waiting = waiting - 1 end
  if s.state <= RETRYING then waiting = waiting + 1 end
end

local answers = {}
for n, copy in ipairs(copies) do
  local s = rows[copy.id]
  if s then
    answers[n] = s.newer and 'K' or stage_known(s, copy)
  elseif call('ZSCORE', B .. 'g', copy.id) then
    answers[n] = 'K'
  else
    local r = read_record(copy.record)
    local holder = holder_of(r.unique, copy.id)
    if holder then
      answers[n] = 'D' .. holder
    elseif waiting >= copy.bound then
      answers[n] = 'F'
    else
      answers[n] = 'S'
      waiting = waiting + 1
      local held = copy.hold > 0 and now + copy.hold - 1
      s = admit(copy, provider, held or 0)
      stage(s, held or now + lease)
      -- Nobody publishes it now, so nobody can refuse it.
      if held then announce(s, r.kind) end
    end
  end
end
flush()
return answers
