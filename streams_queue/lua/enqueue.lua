--!include tally time entry frame dead group
-- Add a batch of events, once, however often the batch arrives.
-- KEYS: 1 stream, 2 delayed, 3 dead, 4 stats, 5 producer; then dedup buckets, the current one first (none: no event ids)
-- ARGV: 1 group, 2 producer id, 3 sequence of this batch, 4 max_size, 5 overflow, 6 producer TTL in ms,
--       7 dedup TTL in ms, 8 dead max_size, 9 dead when_full,
--       10 specials "index,delay_ms,digest;…" (empty: none), then per event: id, payload, meta
-- Returns: {status, held, results, stored sequence}
--       status: ok | replayed | stale (an older batch, nothing written) | mismatch (another batch under this sequence)
--       held: waiting + in flight + delayed, after the batch; -1 where nothing was looked at
--       results, one word per event: an entry id, L (delayed), D (duplicate), F (full), P (intake paused)
--       stored sequence: what the server knew of this producer before the batch; -1: nothing
-- Cost: O(events), plus one XRANGE per event that is dropped
-- Idempotent: yes, by producer id and sequence; the reply is kept beside the batch's first event id and its count
local FIRST = 11
local sequence, count = tonumber(ARGV[3]), (#ARGV - FIRST + 1) / 3

local stored, stored_sequence = redis.call('GET', KEYS[5]), -1
if stored then
  local known, known_count, results, first_id = string.match(stored, '^(%d+)\n(%d+)\n([^\n]*)\n(.*)$')
  stored_sequence = tonumber(known) or -1
  if stored_sequence == sequence then
    if tonumber(known_count) == count and first_id == ARGV[FIRST] then
      -- A write, so that WAIT on this connection is about the batch: it may have come by another one before.
      redis.call('PEXPIRE', KEYS[5], ARGV[6])
      return { 'replayed', -1, results, stored_sequence }
    end
    return { 'mismatch', -1, '', stored_sequence }
  end
  if stored_sequence > sequence then
    return { 'stale', -1, '', stored_sequence }
  end
end

-- Everything that can fail is read here, before the first write.
local delays, digests, duplicates = {}, {}, {}
for index, delay, digest in string.gmatch(ARGV[10], '(%d+),(%d*),([%w_-]*);') do
  delays[tonumber(index)] = tonumber(delay)
  if digest ~= '' then
    digests[tonumber(index)] = digest
  end
end
local seen = {}
for index, digest in pairs(digests) do
  for bucket = 6, #KEYS do
    if redis.call('SISMEMBER', KEYS[bucket], digest) == 1 then
      duplicates[index] = KEYS[bucket]
    end
  end
end
local max_size, overflow = tonumber(ARGV[4]), ARGV[5]
local dead_max, when_full = tonumber(ARGV[8]), ARGV[9]
local paused = string.find(redis.call('HGET', KEYS[4], 'paused') or '', 'intake', 1, true)
local held = redis.call('XLEN', KEYS[1]) + redis.call('ZCARD', KEYS[2])
redis.call('XLEN', KEYS[3])
local now = time_ms()

local last_delivered
local function oldest_waiting()
  last_delivered = last_delivered or group_info(KEYS[1], ARGV[1])['last-delivered-id']
  return redis.call('XRANGE', KEYS[1], '(' .. last_delivered, '+', 'COUNT', 1)[1]
end

-- Moves the oldest waiting events to the dead letters until one more fits; events in flight are never touched.
local dropped = 0
local function make_room()
  while held >= max_size do
    local entry = max_size > 0 and dead_has_room(KEYS[3], dead_max, when_full) and oldest_waiting()
    if not entry then
      return false
    end
    add_dead(KEYS[3], KEYS[4], dead_max, when_full, entry[2], 'overflow', '',
      earlier_deliveries(entry[2]), entry_ms(entry[1]), now)
    redis.call('XDEL', KEYS[1], entry[1])
    held, dropped = held - 1, dropped + 1
  end
  return true
end

local function add(index, at)
  local fields = { 'id', ARGV[at], 'payload', ARGV[at + 1], 'meta', ARGV[at + 2] }
  if delays[index] then
    redis.call('ZADD', KEYS[2], now + delays[index], frame(ARGV[2] .. '-' .. ARGV[3] .. '-' .. index, fields))
    return 'L'
  elseif overflow == 'drop_oldest' then
    -- By now there is nothing to trim: the cap holds even if this script had miscounted.
    return redis.call('XADD', KEYS[1], 'MAXLEN', max_size, '*', unpack(fields))
  end
  return redis.call('XADD', KEYS[1], '*', unpack(fields))
end

local results, accepted, refused, doubled, known_in = {}, 0, 0, 0
for index = 1, count do
  local at, digest = FIRST + (index - 1) * 3, digests[index]
  if duplicates[index] or (digest and seen[digest]) then
    results[index], doubled, known_in = 'D', doubled + 1, duplicates[index] or known_in
  elseif paused then
    results[index] = 'P'
  elseif held < max_size or (overflow == 'drop_oldest' and make_room()) then
    results[index] = add(index, at)
    held, accepted = held + 1, accepted + 1
    if digest then
      seen[digest] = true
      redis.call('SADD', KEYS[6], digest)
    end
  else
    results[index], refused = 'F', refused + 1
  end
end

local words = table.concat(results, ' ')
if accepted > 0 then
  if next(seen) then
    redis.call('PEXPIRE', KEYS[6], ARGV[7])
  end
  tally(KEYS[4], 'enqueued', accepted)
end
-- From here on writes may fail, with no memory left: where nothing was accepted, the answer stands all the same.
-- The reply is kept also then, so that a late first copy does not belie it.
local kept = redis.pcall('SET', KEYS[5], sequence .. '\n' .. count .. '\n' .. words .. '\n' .. ARGV[FIRST],
  'PX', ARGV[6])
if type(kept) == 'table' and kept.err and known_in then
  -- There has to be a write, so that WAIT is about the event whose duplicate came; this one needs no memory.
  redis.call('PEXPIRE', known_in, ARGV[7])
end
-- Who blocks counts when it gives up.
if refused > 0 and overflow ~= 'block' then
  tally(KEYS[4], 'rejected', refused)
end
if doubled > 0 then
  tally(KEYS[4], 'duplicates', doubled)
end
return { 'ok', held, words, stored_sequence }
