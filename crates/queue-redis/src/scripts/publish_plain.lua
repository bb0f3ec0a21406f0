-- Takes jobs in, where nothing is special; where something is, `publish.lua` goes on from the same start.
-- KEYS[1]  as there.
-- ARGV: as there.
-- Nothing is special where all jobs share their heads (so that none has a delay, an expiry or a unique key), all are
-- new, there is room for all, nobody watches, and the queue keeps no indexes.
-- Answers how many: all are accepted.
-- O(1) a job: seven to ten commands a call, whatever the number of jobs.
local shared = ARGV[2]
if shared ~= '' then
  local call, base, total = redis.call, KEYS[1], (#ARGV - 3) / 2
  local clock = call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local n = call('HMGET', base .. 'n', 'watched', 'sleeping', 'paused', 'p', 's', 't', 'submitted', 'born', 'indexes')
  local watched, sleeping, paused, pending = tonumber(n[1] or 0), tonumber(n[2] or 0), n[3] == '1', tonumber(n[4] or 0)
  local later, again, submitted = tonumber(n[5] or 0), tonumber(n[6] or 0), tonumber(n[7] or 0)
  local plain = n[8] == ARGV[#ARGV] and not n[9] and watched and sleeping and pending and later and again and submitted and watched <= now
    and pending + later + again + total <= tonumber(ARGV[1])
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
    -- One that is alone is looked for as it is written.
    local known = total > 1 and call('HMGET', base .. 'j', unpack(ids, 2)) or {}
    for n = 1, total do twice = twice or known[n] end
    if not twice and call('EXISTS', base .. 'a', base .. 'b') > 0 then
      for _, generation in ipairs({ 'a', 'b' }) do
        local gone = call('HMGET', base .. generation, unpack(ids, 2))
        for n = 1, total do twice = twice or gone[n] end
      end
    end
    if total == 1 then twice = twice or call('HSETNX', unpack(records)) == 0 end
    if not twice then
      if total > 1 then call('HSET', unpack(records)) end
      call('RPUSH', unpack(ids))
      call('HSET', base .. 'n', 'p', pending + total, 'submitted', submitted + total)
      if sleeping > now and not paused then call('ZADD', base .. 'm', '0', '0') end
      return total
    end
  end
end
