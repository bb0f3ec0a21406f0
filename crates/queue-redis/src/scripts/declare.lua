-- Declares a queue, unless it is.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: the declaration.
-- Answers { the declaration that stands, its incarnation, 1 if it is new }. An incarnation is the time of a declaration: a queue that was dropped
-- and declared anew is another one, also where it is declared alike.
-- O(1)
local call, base = redis.call, KEYS[1]
local spec, born = call('GET', base .. 'spec'), call('HGET', base .. 'n', 'born')
if spec and born then return { spec, born, 0 } end
-- One that an older version declared has none. A server that is full refuses a script only until it has written.
if spec then call('HDEL', base .. 'n', '') else call('SET', base .. 'spec', ARGV[1]) end
local clock = call('TIME')
born = string.format('%d%06d', clock[1], clock[2])
call('HSET', base .. 'n', 'born', born)
return { spec or ARGV[1], born, spec and 0 or 1 }
