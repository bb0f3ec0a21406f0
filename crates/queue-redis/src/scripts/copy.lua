-- Makes a shard of a queue known to be one, unless it is. Jobs that it holds stay: they are of a queue that was dropped half.
-- KEYS[1]  the base of the shard's keys.
-- ARGV: the declaration; its incarnation, which is that of the first shard.
-- Answers 0 if it was, 1 if it is new, -1 where it is of a later declaration.
-- O(1)
local call, base = redis.call, KEYS[1]
local born = call('HGET', base .. 'n', 'born')
if born == ARGV[2] and call('EXISTS', base .. 'spec') == 1 then return 0 end
if born and tonumber(born) > tonumber(ARGV[2]) then return -1 end
call('SET', base .. 'spec', ARGV[1])
call('HSET', base .. 'n', 'born', ARGV[2])
return 1
