-- Gives the other shards of a queue the switches of the first.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: their version, 1 to pause.
-- Answers 1, or 0 where they are these or later ones.
-- O(1)
if tonumber(call('HGET', B .. 'n', 'version') or 0) >= tonumber(ARGV[1]) then return 0 end
call('HSET', B .. 'n', 'version', ARGV[1], 'paused', ARGV[2])
call('ZADD', B .. 'm', 0, '0')
return 1
