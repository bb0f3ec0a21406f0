-- Takes jobs in, where nothing is special; where something is, `publish.lua` goes on from the same start.
-- KEYS and ARGV as there. Nothing is special where all jobs share their heads (so that none has a delay, an expiry or a unique key), all are
-- new, there is room for all, and nobody watches.
-- Answers how many: all are accepted.
-- O(1) a job: nine commands a call, whatever the number of jobs.
local shared = ARGV[2]
if shared ~= '' then
  local call, base, total = redis.call, KEYS[1], (#ARGV - 2) / 2
  local clock = call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local pending, scheduled, retrying, watched, sleeping, paused = unpack(call('HMGET', base .. 'n', 'p', 's', 't', 'watched', 'sleeping', 'paused'))
  local waiting = (pending or 0) + (scheduled or 0) + (retrying or 0)
  local plain = not (watched and tonumber(watched) > now) and waiting + total <= tonumber(ARGV[1])
  if plain then
    -- A record's head: version, flags, priority, time, rank (given by the claim), attempt and started.
    local priority = shared:byte(2)
    local head = struct.pack('<BBBI6I6', 1, 0, priority, now, 0) .. shared:sub(21)
    local ids, records, seen, twice = { base .. 'r' .. priority }, { base .. 'j' }, {}, false
    for n = 1, total do
      local id = ARGV[2 * n + 1]
      twice = twice or seen[id]
      seen[id] = true
      ids[n + 1] = id
      records[2 * n] = id
      records[2 * n + 1] = head .. ARGV[2 * n + 2]
    end
    local known = call('HMGET', base .. 'j', unpack(ids, 2))
    for n = 1, total do twice = twice or known[n] end
    if not twice and call('EXISTS', base .. 'a', base .. 'b') > 0 then
      for _, generation in ipairs({ 'a', 'b' }) do
        for _, gone in ipairs(call('SMISMEMBER', base .. generation, unpack(ids, 2))) do twice = twice or gone == 1 end
      end
    end
    if not twice then
      call('HSET', unpack(records))
      call('RPUSH', unpack(ids))
      call('HINCRBY', base .. 'n', 'p', total)
      call('HINCRBY', base .. 'n', 'submitted', total)
      if sleeping and tonumber(sleeping) > now and paused ~= '1' then call('ZADD', base .. 'm', 0, '0') end
      return total
    end
  end
end
