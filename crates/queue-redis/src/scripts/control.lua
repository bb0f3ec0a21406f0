-- Changes the switches of a queue, if nobody has since they were read.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: the version that was read, 1 to pause.
-- Answers the new version, or -1 where somebody has.
-- O(1)
local version = tonumber(call('HGET', B .. 'n', 'version') or 0)
if version ~= tonumber(ARGV[1]) then return -1 end
call('HSET', B .. 'n', 'version', version + 1, 'paused', ARGV[2])
call('ZADD', B .. 'm', 0, '0')
return version + 1
