-- Whether this user may give the two commands for which there is no other harmless form. They are given where they change
-- nothing: HSETNX about a field that is there, SADD about a key that is no set. Before the queue's first use there is no such
-- place, and nothing is tried.
-- KEYS: 1 stats
-- ARGV: none
-- Returns: what HSETNX and SADD say, as text; nothing if neither was tried
-- Cost: O(1)
-- Idempotent: changes nothing
if redis.call('HEXISTS', KEYS[1], 'schema') == 0 then
  return {}
end
local function word(reply)
  return type(reply) == 'table' and reply.err or ''
end
return { word(redis.pcall('HSETNX', KEYS[1], 'schema', '')), word(redis.pcall('SADD', KEYS[1], '')) }
