-- Removes a queue with everything in it. Its tickets go on with the clock, so that no fence is given out twice.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: nothing.
-- Answers 1.
-- O(n) for n park keys.
for _, key in ipairs(call('ZRANGE', B .. 'k', 0, -1)) do call('UNLINK', B .. 'k:' .. key) end
local keys = {}
for _, name in ipairs({ 'j', 's', 'i', 'a', 'l', 't', 'x', 'u', 'w', 'd', 'f', 'o', 'g', 'z', 'k', 'y', 'n', 'e' }) do keys[#keys + 1] = B .. name end
call('UNLINK', unpack(keys))
return 1
