--!include tally
-- The events are done: acknowledge and delete them. Needs no ownership: the first settlement of an event wins.
-- KEYS: 1 stream, 2 stats
-- ARGV: 1 group, then entry ids
-- Returns: how many of them this call ended
-- Cost: O(ids)
-- Idempotent: yes
redis.call('HGET', KEYS[2], 'acked')
local ids = {}
for i = 2, #ARGV do
  ids[i - 1] = ARGV[i]
end
redis.call('XACK', KEYS[1], ARGV[1], unpack(ids))
local ended = redis.call('XDEL', KEYS[1], unpack(ids))
if ended > 0 then
  tally(KEYS[2], 'acked', ended)
end
return ended
