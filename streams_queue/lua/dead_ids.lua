-- Name the oldest dead letters, without their payloads.
-- KEYS: 1 dead
-- ARGV: 1 most ids to return
-- Returns: ids, oldest first
-- Cost: O(ids)
-- Idempotent: reads only
local ids = {}
for i, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[1])) do
  ids[i] = entry[1]
end
return ids
