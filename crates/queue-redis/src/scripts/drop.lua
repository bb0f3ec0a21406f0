-- Removes a queue with everything in it. Its tickets go on with the clock, so that no fence is given out twice; where they are ahead of it, the last
-- of them stays.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: 1 to refuse where jobs wait or run; the incarnation that is dropped, nothing for any.
-- Answers 1, 0 where it refused, 2 where it was declared anew since: then it stays.
-- O(n) for n park keys and indexed terms; what the keys hold is freed in the background.
if number(born) > (tonumber(ARGV[2]) or math.huge) then return 2 end
local left = 0
for _, jobs in ipairs(call('HMGET', B .. 'n', 'p', 's', 't', 'r')) do left = left + number(jobs) end
if ARGV[1] == '1' and left > 0 then return 0 end
local keys = {}
for _, term in ipairs(call('SMEMBERS', B .. 'ix')) do call('UNLINK', B .. term) end
for _, key in ipairs(call('ZRANGE', B .. 'k', 0, -1)) do call('UNLINK', B .. 'k:' .. key) end
for _, name in ipairs({ 'j', 's', 'i', 'h', 't', 'x', 'u', 'w', 'd', 'c', 'a', 'b', 'k', 'y', 'z', 'l', 'n', 'm', 'v', 'e', 'spec', 'ix', 'q', 'f', 'g', 'o' }) do keys[#keys + 1] = B .. name end
for priority = 1, 15 do keys[#keys + 1] = B .. 'r' .. priority end
local last = number(call('HGET', B .. 'n', 'ticket'))
call('UNLINK', unpack(keys))
if last > now * TICKETS then call('HSET', B .. 'n', 'ticket', last) end
-- Whoever sleeps on it, in whatever process, hears that it is gone.
if sleeping then
  for n = 0, 31 do call('ZADD', B .. 'm', 0, n) end
  call('EXPIRE', B .. 'm', 60)
end
-- Who maintains it believes that it rests.
if resting then
  call('ZADD', B .. 'v', 0, '0')
  call('EXPIRE', B .. 'v', 60)
end
return 1
