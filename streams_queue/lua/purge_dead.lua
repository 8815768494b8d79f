--!include tally
-- Delete dead letters for good.
-- KEYS: 1 dead, 2 stats
-- ARGV: ids of dead letters (none: all of them)
-- Returns: how many were deleted
-- Cost: O(ids)
-- Idempotent: yes
redis.call('HGET', KEYS[2], 'dead_purged')
local deleted
if #ARGV == 0 then
  deleted = redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)
else
  deleted = redis.call('XDEL', KEYS[1], unpack(ARGV))
end
if deleted > 0 then
  tally(KEYS[2], 'dead_purged', deleted)
end
return deleted
