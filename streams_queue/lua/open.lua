--!include tally
-- Check that the queue's keys are ours to share, and create the stream and its group if they are missing. Each group has
-- a name for its lifetime: by it, who knew an earlier group learns that the server has lost that one, whoever made the
-- new one. The first to come counts the loss, for all.
-- KEYS: 1 stream, 2 delayed, 3 dead, 4 stats
-- ARGV: 1 group, 2 schema of this release, 3 lifetime that this client knows (empty: it comes for the first time),
--       4 name for a new lifetime, different for each opening and the same when that is repeated, 5 events held as far as
--       this client knew
-- Returns: {1 if the state was lost and nobody had noticed, events held, schema of the queue, lifetime, paused}; or an error
--       SCHEMA, OTHERGROUP, WRONGTYPE
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
-- write changes nothing and is never refused for memory, and no other is after it.
redis.call('HDEL', KEYS[4], 'no_such_field')
local lifetime = redis.call('HGET', KEYS[4], 'lifetime')
if not exists then
  redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
  lifetime = ARGV[4]
elseif not lifetime then
  -- The group of an older release, or these figures alone were lost.
  lifetime = ARGV[3] ~= '' and ARGV[3] or ARGV[4]
end
redis.call('HSET', KEYS[4], 'lifetime', lifetime, 'schema', schema or ARGV[2])

local held = redis.call('XLEN', KEYS[1]) + redis.call('ZCARD', KEYS[2])
-- Told once; again only to whom the reply did not reach.
local mourned, ours = redis.call('HGET', KEYS[4], 'mourned') or '', lifetime .. ' ' .. ARGV[4]
local lost = ARGV[3] ~= '' and ARGV[3] ~= lifetime
  and (mourned == ours or string.sub(mourned, 1, #lifetime + 1) ~= lifetime .. ' ')
if lost and mourned ~= ours then
  redis.call('HSET', KEYS[4], 'mourned', ours)
  tally(KEYS[4], 'state_lost', 1)
  if tonumber(ARGV[5]) > held then
    tally(KEYS[4], 'lost', tonumber(ARGV[5]) - held)
  end
end
return { lost and 1 or 0, held, tonumber(schema or ARGV[2]), lifetime,
  redis.call('HGET', KEYS[4], 'paused') or '' }
