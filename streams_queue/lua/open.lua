-- Check that the queue's keys are ours to share, and create the stream and its group if they are missing.
-- KEYS: 1 stream, 2 delayed, 3 dead, 4 stats
-- ARGV: 1 group, 2 schema of this release, 3 '1' if this client had opened the queue before
-- Returns: {created 0|1, events held, schema of the queue}; or an error SCHEMA, OTHERGROUP, WRONGTYPE
-- Cost: O(groups)
-- Idempotent: yes
local wanted = { 'stream', 'zset', 'stream', 'hash' }
for i = 1, 4 do
  local reply = redis.call('TYPE', KEYS[i])
  local found = type(reply) == 'table' and reply.ok or reply
  if found ~= 'none' and found ~= wanted[i] then
    return redis.error_reply('WRONGTYPE the key ' .. KEYS[i] .. ' holds a ' .. found .. ', not a ' .. wanted[i])
  end
end

local schema = redis.call('HGET', KEYS[4], 'schema')
if schema and not (tonumber(schema) and tonumber(schema) <= tonumber(ARGV[2])) then
  return redis.error_reply('SCHEMA the queue has schema ' .. schema .. '; this release knows up to ' .. ARGV[2])
end

local exists = false
if redis.call('EXISTS', KEYS[1]) == 1 then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    for i = 1, #group, 2 do
      if group[i] == 'name' and group[i + 1] == ARGV[1] then
        exists = true
      elseif group[i] == 'name' then
        return redis.error_reply('OTHERGROUP the stream ' .. KEYS[1] .. ' has another group, ' .. group[i + 1]
          .. '; each group acknowledges by deleting, so a second one would lose events')
      end
    end
  end
end

-- A server that takes no writes now (a replica, too few replicas, a full disk) is not open, though all is there. This
-- write changes nothing and is never refused for memory.
redis.call('HDEL', KEYS[4], 'no_such_field')
if not exists then
  redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
  if ARGV[3] == '1' then
    redis.call('HINCRBY', KEYS[4], 'state_lost', 1)
  end
end
if not schema then
  redis.call('HSET', KEYS[4], 'schema', ARGV[2])
end
return { exists and 0 or 1, redis.call('XLEN', KEYS[1]) + redis.call('ZCARD', KEYS[2]), tonumber(schema or ARGV[2]) }
