--!include tally entry fence
-- Take the events of one page out of the queue for good: all of them or, if one is not there any more, none.
-- KEYS: 1 stream, 2 delayed, 3 dead, 4 stats, 5 drains, 6 list onto which their payloads go (none: they are somewhere else)
-- ARGV: 1 group, 2 consumer, 3 drain, 4 how many events it had taken out before this page, 5 and how many with it,
--       then per event: w | d | x (waiting and taken, delayed, dead), entry id | member | dead id,
--       delivery count of the pending entry (w), payload for the list (empty: as it is stored)
-- Returns: done | changed (not everything is there any more) | forgotten (the drain stands somewhere else); only `done` did
--       anything
-- Cost: O(events)
-- Idempotent: yes, by how many the drain has taken out
redis.call('XLEN', KEYS[3])
local known = redis.call('HGET', KEYS[5], ARGV[3])
if known == ARGV[5] then
  return 'done'
elseif known ~= ARGV[4] then
  return 'forgotten'
end
if KEYS[6] then
  local reply = redis.call('TYPE', KEYS[6])
  local found = type(reply) == 'table' and reply.ok or reply
  if found ~= 'none' and found ~= 'list' then
    return redis.error_reply('WRONGTYPE the key ' .. KEYS[6] .. ' holds a ' .. found .. ', not a list')
  end
end
-- A write that is never refused for memory: after it the rest of the script runs to its end, also over maxmemory. What it
-- adds to the list it takes from the stream.
redis.call('HDEL', KEYS[4], 'no_such_field')

local payloads = {}
for i = 6, #ARGV, 4 do
  local kind, key, payload = ARGV[i], ARGV[i + 1], ARGV[i + 3]
  if kind == 'w' then
    local entry = holder(KEYS[1], ARGV[1], ARGV[2], key, ARGV[i + 2]) == 'held' and redis.call('XRANGE', KEYS[1], key, key)[1]
    if not entry then
      return 'changed'
    end
    payload = payload == '' and field(entry[2], 'payload') or payload
  elseif kind == 'd' then
    -- Changes nothing, and says whether the member is there, without a permission that a queue does not need.
    if not redis.call('ZADD', KEYS[2], 'XX', 'INCR', 0, key) then
      return 'changed'
    end
  elseif #redis.call('XRANGE', KEYS[3], key, key) == 0 then
    return 'changed'
  end
  payloads[i] = payload
end
local live, dead = 0, 0
for i = 6, #ARGV, 4 do
  local kind, key = ARGV[i], ARGV[i + 1]
  live, dead = live + (kind == 'x' and 0 or 1), dead + (kind == 'x' and 1 or 0)
  if kind == 'w' then
    remove(KEYS[1], ARGV[1], key)
  elseif kind == 'd' then
    redis.call('ZREM', KEYS[2], key)
  else
    redis.call('XDEL', KEYS[3], key)
  end
  if KEYS[6] then
    redis.call('LPUSH', KEYS[6], payloads[i])
  end
end
redis.call('HSET', KEYS[5], ARGV[3], ARGV[5])
if live > 0 then
  tally(KEYS[4], 'drained', live)
end
if dead > 0 then
  tally(KEYS[4], 'dead_drained', dead)
end
return 'done'
