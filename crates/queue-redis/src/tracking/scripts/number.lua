-- The number of a queue, for good: fences name it.
-- KEYS[1]  a hash: `next`, q and a queue's name -> its number, n and a number -> the queue's name.
-- ARGV: the queue's name.
-- Answers its number, from 1.
-- O(1)
local number = redis.call('HGET', KEYS[1], 'q' .. ARGV[1])
if number then return tonumber(number) end
number = redis.call('HINCRBY', KEYS[1], 'next', 1)
redis.call('HSET', KEYS[1], 'q' .. ARGV[1], number, 'n' .. string.format('%d', number), ARGV[1])
return number
