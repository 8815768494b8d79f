--!include migration
-- Set aside the oldest items of the processing list, as many as were planned to be.
-- KEYS: 1 processing list, 2 record, 3 set-aside
-- ARGV: 1 how many at most, 2 stop when they have so many bytes
-- Returns: {status, set aside, how many of the planned ones are left}
--       status: ok | lost (there is no record)
-- Cost: O(items)
-- Idempotent: goes on with the next ones, until there are as many as planned
local before, known = redis.call('LLEN', KEYS[1]), known_length(KEYS[2], 'processing')
if not known then
  return { 'lost', 0, 0 }
end
redis.call('LLEN', KEYS[3])
-- A write that is not refused for memory, since what follows takes none.
redis.call('HDEL', KEYS[2], 'no_such_field')
local left, room, aside = tonumber(redis.call('HGET', KEYS[2], 'aside_left')), tonumber(ARGV[2]), 0
local most = math.min(tonumber(ARGV[1]), left)
while aside < most and room > 0 do
  local item = redis.call('LMOVE', KEYS[1], KEYS[3], 'RIGHT', 'LEFT')
  if not item then
    -- Others have taken them.
    redis.call('HSET', KEYS[2], 'aside_left', aside)
    left = aside
    break
  end
  aside, room = aside + 1, room - #item
end
note(KEYS[2], 'processing', KEYS[1], known, before, 0, aside)
-- Of -0, which -aside may be, Redis says that it is no integer.
return { 'ok', aside, redis.call('HINCRBY', KEYS[2], 'aside_left', 0 - aside) }
