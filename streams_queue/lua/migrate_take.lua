--!include migration
-- Take the oldest items of a list into the staging list, for another server. What is there already comes first: it may
-- have been sent, and goes out again under the same producer and sequence.
-- KEYS: 1 list, 2 record, 3 staging list
-- ARGV: 1 list's name in the record, 2 how many at most, 3 stop when they have so many bytes,
--       4 a producer id whose fate the other server cannot tell (empty: none), 5 the one to go on with in its place,
--       6 the sequence that it cannot tell of: nothing is given up if another migration has settled that one meanwhile
-- Returns: {status, producer, sequence, name in the record of the list that they are from, items, how many of the planned
--       ones are left}; the oldest item first
--       status: ok | lost (there is no record)
-- Cost: O(items)
-- Idempotent: yes; it returns the same items until they are settled
local part = ARGV[1]
local before, known = redis.call('LLEN', KEYS[1]), known_length(KEYS[2], part)
if not known then
  return { 'lost', '', 0, part, {}, 0 }
end
redis.call('LLEN', KEYS[3])
-- A write that is not refused for memory, since what follows takes none.
redis.call('HDEL', KEYS[2], 'no_such_field')
local planned = part == 'processing' and tonumber(redis.call('HGET', KEYS[2], 'requeue_left')) or nil
local sent = redis.call('HMGET', KEYS[2], 'producer', 'sequence')
if ARGV[4] ~= '' and sent[1] == ARGV[4] and sent[2] == ARGV[6] then
  redis.call('HSET', KEYS[2], 'producer', ARGV[5], 'sequence', 1)
end
if redis.call('LLEN', KEYS[3]) == 0 then
  local most, room, taken = math.min(tonumber(ARGV[2]), planned or math.huge), tonumber(ARGV[3]), 0
  while taken < most and room > 0 do
    local item = redis.call('LMOVE', KEYS[1], KEYS[3], 'RIGHT', 'LEFT')
    if not item then
      break
    end
    taken, room = taken + 1, room - #item
  end
  if taken > 0 then
    redis.call('HSET', KEYS[2], 'staged', part)
    note(KEYS[2], part, KEYS[1], known, before, 0, 0)
    if planned then
      planned = redis.call('HINCRBY', KEYS[2], 'requeue_left', -taken)
    end
  end
end
local staged, items = redis.call('LRANGE', KEYS[3], 0, -1), {}
for i = #staged, 1, -1 do
  items[#items + 1] = staged[i]
end
local now = redis.call('HMGET', KEYS[2], 'producer', 'sequence', 'staged')
return { 'ok', now[1], tonumber(now[2]), now[3], items, planned or 0 }
