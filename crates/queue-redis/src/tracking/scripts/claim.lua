-- Judges copies that the transport delivered.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: lease in ms, worker and provider, packed; the packed copies as one; then nothing while their records may not be needed, or each of them.
-- Answers one string each: R and the packed claim: it runs; B and for how many ms: not yet; D nobody may run it; N its record is needed.
-- O(log n) each; n jobs run, are staged or wait for a time.
advance(100)
local LATER, LATE = 60000, 1000
-- How long a packed copy is.
local COPY = 43

-- Begins the record of a job that was published while the store was away. Nothing where it was here before.
--
-- One that was taken back may have been tried again since, under its id and without the store. What has a unique key cannot: its copy is
-- that of a follow-up which was not wanted.
local function adopt(copy)
  local stone = stone_of(copy.id)
  if stone == 'E' then return nil end
  if stone == 'W' and read_record(copy.record).unique then return nil end
  local r = read_record(copy.record)
  return admit(copy, copy.provider, 0), r.kind
end

-- What becomes of a copy that must not run now.
local function refuse_copy(s, copy)
  if s.state > RUNNING or copy.generation < s.generation then return 'D' end
  if s.state == RUNNING and s.turn > now then return 'B' .. pack('<I6', s.turn - now) end
  if s.state == RUNNING and has(s.flags, CANCELLING) then
    -- Its worker died before it stopped.
    finish(s, CANCELLED)
    return 'D'
  end
  if copy.expires > 0 and copy.expires <= now then
    finish(s, EXPIRED)
    return 'D'
  end
  local due = 0
  if copy.generation > s.generation then
    due = copy.not_before
  elseif has(s.flags, PARKED) then
    -- Its copy was acknowledged: one that comes late all the same has no place in the transport to go back to. The next one is staged
    -- when the job is let go, or by the sweep.
    due = math.max(s.turn, now + LATE)
  elseif s.due > 0 then
    due = s.turn
  end
  return due > now and 'B' .. pack('<I6', due - now)
end

local function run(s, copy)
  if copy.generation > s.generation then
    -- The store was restored from an older state: the copy knows more.
    s.attempt, s.started = math.max(s.attempt, copy.attempt), math.max(s.started, copy.deliveries)
    replace(s, copy)
  end
  if s.state == RUNNING then
    s.flags = with(s.flags, ORPHANED)
    move(s, PENDING, 'lease_lost')
  end
  s.place, s.started_at, s.worker, s.flags = copy.place, now, copy.worker, without(s.flags, MARKED)
  move(s, RUNNING, 'started')
  s.claimed = s.generation
  -- It was delivered, so the transport had it, confirmed or not.
  sent(s)
  s.turn = now + copy.lease
  local orphaned = has(s.flags, ORPHANED) and 1 or 0
  return 'R' .. pack('<I8I4I4I4B', s.ticket, s.claimed, s.attempt, s.started, orphaned)
end

local function judge(copy)
  load({ copy.id })
  local s, kind = rows[copy.id], nil
  if s and s.newer then return 'B' .. pack('<I6', LATER) end
  if not s then
    if stone_of(copy.id) == 'E' then return 'D' end
    if copy.record == '' then return 'N' end
    s, kind = adopt(copy)
    if not s then return 'D' end
  end
  if copy.generation > s.generation and copy.record == '' then return 'N' end
  announce(s, kind)
  return refuse_copy(s, copy) or run(s, copy)
end

local answers = {}
local lease, worker, provider = unpick('<I6Bc0Bc0', ARGV[1])
for n = 1, #ARGV[2] / COPY do
  local copy = read_copy(ARGV[2]:sub(COPY * n - COPY + 1, COPY * n), ARGV[n + 2] or '')
  copy.lease, copy.worker, copy.provider = lease, worker, provider
  answers[n] = judge(copy)
end
flush()
return answers
