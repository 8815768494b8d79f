--!include tally
-- Add a batch of events, once, however often the batch arrives.
-- KEYS: 1 stream, 2 delayed, 3 dead, 4 stats, 5 producer; then dedup buckets, the current one first (none: no event ids)
-- ARGV: 1 group, 2 producer id, 3 sequence of this batch, 4 settled (see below), 5 max_size, 6 overflow,
--       7 producer TTL in ms, 8 dedup TTL in ms, 9 dead max_size, 10 dead when_full,
--       11 specials "index,delay_ms,digest;…" (empty: none), then per event: id, payload, meta
--       settled: the last batch of this producer whose fate is known; those between it and this one are on their way,
--       and nothing is written unless they have been: that keeps the order when one of them is refused
-- Returns: {status, held, results, stored sequence}
--       status: ok | replayed | stale (an older batch, nothing written) | mismatch (another batch under this sequence) |
--       gap (a batch before it is missing, nothing written)
--       held: waiting + in flight + delayed, after the batch; -1 where nothing was looked at
--       results, one word per event: an entry id, L (delayed), D (duplicate), F (full), P (intake paused)
--       stored sequence: what the server knew of this producer before the batch; -1: nothing
-- Cost: O(events), plus one XRANGE per event that is dropped
-- Idempotent: yes, by producer id and sequence; the replies that may still be asked for are kept, each beside its batch's
--       first event id and count
local FIRST = 12
local sequence, settled, count = tonumber(ARGV[3]), tonumber(ARGV[4]), (#ARGV - FIRST + 1) / 3

-- Records, the newest first: sequence, count, results, length of the first event id, that id.
local stored, stored_sequence, unsettled = redis.call('GET', KEYS[5]), -1, ''
local position = 1
while stored and position <= #stored do
  local known, known_count, at = string.match(stored, '^(%d+)\n(%d+)\n()', position)
  -- Not by the pattern: that would look at each character of the results, of which a batch has thousands.
  local results_end = at and string.find(stored, '\n', at, true)
  local length, id_at = string.match(stored, '^(%d+)\n()', results_end and results_end + 1 or #stored + 1)
  if not length then
    break
  end
  local following = id_at + tonumber(length)
  local first_id = string.sub(stored, id_at, following - 1)
  known = tonumber(known)
  stored_sequence = math.max(stored_sequence, known)
  if known == sequence then
    if tonumber(known_count) == count and first_id == ARGV[FIRST] then
      -- A write, so that WAIT on this connection is about the batch: it may have come by another one before.
      redis.call('PEXPIRE', KEYS[5], ARGV[7])
      return { 'replayed', -1, string.sub(stored, at, results_end - 1), stored_sequence }
    end
    return { 'mismatch', -1, '', stored_sequence }
  end
  if known > settled then
    unsettled = unsettled .. string.sub(stored, position, following - 1)
  end
  position = following
end
if stored_sequence > sequence then
  return { 'stale', -1, '', stored_sequence }
elseif settled < sequence - 1 and stored_sequence < sequence - 1 then
  return { 'gap', -1, '', stored_sequence }
end

-- Types are looked at before the first write: a script does not roll back.
local max_size, overflow = tonumber(ARGV[5]), ARGV[6]
local paused = string.find(redis.call('HGET', KEYS[4], 'paused') or '', 'intake', 1, true)
local held = redis.call('XLEN', KEYS[1]) + redis.call('ZCARD', KEYS[2])
redis.call('XLEN', KEYS[3])

local results, accepted, refused, doubled, known_in, remembered = {}, 0, 0, 0

-- The plain case, which is nearly always the case: nothing is special, and everything fits.
local function add_all()
  local stream, argv = KEYS[1], ARGV
  for index = 1, count do
    local at = FIRST + (index - 1) * 3
    results[index] = redis.call('XADD', stream, '*', 'id', argv[at], 'payload', argv[at + 1], 'meta', argv[at + 2])
  end
  held, accepted = held + count, count
end

local function add_one_by_one()
  --!include time entry frame dead group
  local now = time_ms()
  local dead_max, when_full = tonumber(ARGV[9]), ARGV[10]
  local delays, digests, duplicates, seen = {}, {}, {}, {}
  for index, delay, digest in string.gmatch(ARGV[11], '(%d+),(%d*),([%w_-]*);') do
    delays[tonumber(index)] = tonumber(delay)
    if digest ~= '' then
      digests[tonumber(index)] = digest
    end
  end
  for index, digest in pairs(digests) do
    for bucket = 6, #KEYS do
      if redis.call('SISMEMBER', KEYS[bucket], digest) == 1 then
        duplicates[index] = KEYS[bucket]
      end
    end
  end

  local last_delivered
  local function oldest_waiting()
    last_delivered = last_delivered or group_info(KEYS[1], ARGV[1])['last-delivered-id']
    return redis.call('XRANGE', KEYS[1], '(' .. last_delivered, '+', 'COUNT', 1)[1]
  end

  -- Moves the oldest waiting events to the dead letters until one more fits; events in flight are never touched.
  local function make_room()
    while held >= max_size do
      local entry = max_size > 0 and dead_has_room(KEYS[3], dead_max, when_full) and oldest_waiting()
      if not entry then
        return false
      end
      add_dead(KEYS[3], KEYS[4], dead_max, when_full, entry[2], 'overflow', '',
        earlier_deliveries(entry[2]), entry_ms(entry[1]), now)
      redis.call('XDEL', KEYS[1], entry[1])
      held = held - 1
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
        seen[digest], remembered = true, true
        redis.call('SADD', KEYS[6], digest)
      end
    else
      results[index], refused = 'F', refused + 1
    end
  end
end

if ARGV[11] == '' and not paused and overflow ~= 'drop_oldest' and held + count <= max_size then
  add_all()
else
  add_one_by_one()
end

local words = table.concat(results, ' ')
if accepted > 0 then
  if remembered then
    redis.call('PEXPIRE', KEYS[6], ARGV[8])
  end
  tally(KEYS[4], 'enqueued', accepted)
end
-- From here on writes may fail, with no memory left: where nothing was accepted, the answer stands all the same.
-- The reply is kept also then, so that a late first copy does not belie it.
local record = table.concat({ ARGV[3], count, words, #ARGV[FIRST], ARGV[FIRST] }, '\n')
local kept = redis.pcall('SET', KEYS[5], record .. unsettled, 'PX', ARGV[7])
if type(kept) == 'table' and kept.err and known_in then
  -- There has to be a write, so that WAIT is about the event whose duplicate came; this one needs no memory.
  redis.call('PEXPIRE', known_in, ARGV[8])
end
-- Who blocks counts when it gives up.
if refused > 0 and overflow ~= 'block' then
  tally(KEYS[4], 'rejected', refused)
end
if doubled > 0 then
  tally(KEYS[4], 'duplicates', doubled)
end
return { 'ok', held, words, stored_sequence }
