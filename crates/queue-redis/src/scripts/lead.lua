-- Gives a role to a candidate for a term, unless another's has not ended.
-- KEYS[1]  the role.
-- ARGV: candidate, term in ms.
-- Answers the epoch, or 0 where another leads.
-- O(1)
local lead = redis.call('HMGET', KEYS[1], 'candidate', 'epoch', 'until')
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local epoch = tonumber(lead[2] or 0)
if lead[1] ~= ARGV[1] then
  if lead[3] and tonumber(lead[3]) > now then return 0 end
  epoch = epoch + 1
end
redis.call('HSET', KEYS[1], 'candidate', ARGV[1], 'epoch', epoch, 'until', now + ARGV[2])
return epoch
