-- Remove from the staging list what the other server has, and set aside what is no event. What is left goes out again
-- under the next sequence.
-- KEYS: 1 staging list, 2 record, 3 set-aside
-- ARGV: 1 producer, 2 sequence under which they were sent, then per item, the oldest first: `.` (it is there), or why it
--       is no event
-- Returns: {status, moved, set aside}
--       status: ok | settled (it was before) | lost (there is no record)
-- Cost: O(items)
-- Idempotent: yes, by the sequence
local known = redis.call('HMGET', KEYS[2], 'producer', 'sequence', 'staged')
if not known[1] then
  return { 'lost', 0, 0 }
elseif known[1] ~= ARGV[1] or known[2] ~= ARGV[2] then
  return { 'settled', 0, 0 }
end
local part, moved, aside = known[3], 0, 0
redis.call('LLEN', KEYS[1])
redis.call('LLEN', KEYS[3])
-- A write that is not refused for memory, since what follows frees some.
redis.call('HDEL', KEYS[2], 'no_such_field')
redis.call('HINCRBY', KEYS[2], 'sequence', 1)
for i = 3, #ARGV do
  if ARGV[i] == '.' then
    redis.call('LTRIM', KEYS[1], 0, -2)
    moved = moved + 1
  else
    redis.call('LMOVE', KEYS[1], KEYS[3], 'RIGHT', 'LEFT')
    redis.call('HINCRBY', KEYS[2], 'unfit_' .. ARGV[i], 1)
    aside = aside + 1
  end
end
redis.call('HINCRBY', KEYS[2], part .. '_moved', moved)
redis.call('HINCRBY', KEYS[2], part .. '_aside', aside)
return { 'ok', moved, aside }
