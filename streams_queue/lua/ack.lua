--!include tally
-- The events are done: acknowledge and delete them. Needs no ownership: the first settlement of an event wins.
-- KEYS: 1 stream, 2 stats
-- ARGV: 1 group, then entry ids
-- Returns: how many of them this call ended
-- Cost: O(ids)
-- Idempotent: yes
redis.call('HGET', KEYS[2], 'acked')
redis.call('XACK', KEYS[1], unpack(ARGV))
local ended = redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
if ended > 0 then
  tally(KEYS[2], 'acked', ended)
end
return ended
