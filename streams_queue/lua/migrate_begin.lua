-- Begin a migration, or go on with one: look at the lists, decide what becomes of the processing list, write that down.
-- KEYS: 1 list, 2 processing list, 3 record, 4 and 5 where each of the two has what is set aside, 6 staging list
-- ARGV: 1 id of the migration, 2 queue, 3 what is asked for the processing list, 4 how many of its newest items are
--       requeued (-1: all)
-- Returns: {record as a flat list, length of the list, of the processing list, of the staging list}; or an error WRONGTYPE
-- Cost: O(1)
-- Idempotent: yes; of one that was begun nothing is changed
local wanted = { 'list', 'list', 'hash', 'list', 'list', 'list' }
for i = 1, #wanted do
  local reply = redis.call('TYPE', KEYS[i])
  local found = type(reply) == 'table' and reply.ok or reply
  if found ~= 'none' and found ~= wanted[i] then
    return redis.error_reply('WRONGTYPE the key ' .. KEYS[i] .. ' holds a ' .. found .. ', not a ' .. wanted[i])
  end
end

-- A write that is not refused for memory: with none left, a migration frees some.
redis.call('HDEL', KEYS[3], 'no_such_field')
local waiting, processing, staged = redis.call('LLEN', KEYS[1]), redis.call('LLEN', KEYS[2]), redis.call('LLEN', KEYS[6])
if redis.call('HEXISTS', KEYS[3], 'id') == 0 then
  local newest = tonumber(ARGV[4])
  local requeued = newest < 0 and processing or math.min(newest, processing)
  local aside = ARGV[3] == 'leave' and 0 or processing - requeued
  redis.call('DEL', KEYS[3])
  redis.call('HSET', KEYS[3], 'id', ARGV[1], 'queue', ARGV[2], 'asked', ARGV[3], 'producer', ARGV[1], 'sequence', 1,
    -- Where there was no record, whatever is on the way was in the list.
    'staged', 'waiting', 'waiting_found', waiting + staged, 'waiting_length', waiting, 'processing_found', processing, 'processing_length', processing,
    'requeue_left', requeued, 'aside_left', aside,
    'processing_list', KEYS[2], 'set_aside', KEYS[4], 'processing_set_aside', KEYS[5])
end

-- What the other scripts do after their first write must not be denied to this user: that would end them half-way.
redis.call('HINCRBY', KEYS[3], 'sequence', 0)
redis.call('LTRIM', KEYS[1], 0, -1)
redis.call('LMOVE', KEYS[1], KEYS[1], 'RIGHT', 'RIGHT')
return { redis.call('HGETALL', KEYS[3]), waiting, processing, staged }
