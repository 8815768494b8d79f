--!include tally time entry frame dead fence pulse
-- The queue's housekeeping: promote what is due, and claim what crashed consumers left, for a consumer with free slots.
-- KEYS: 1 stream, 2 delayed, 3 dead, 4 stats
-- ARGV: 1 group, 2 consumer, 3 lease in ms, 4 free slots, 5 '1' if the consumer has nothing in hand, 6 sweep interval in ms,
--       7 '1' to go on, although the fleet has swept within the interval, 8 max deliveries, 9 dead max_size, 10 dead when_full,
--       11 max_delay in ms, 12 consumers idle for so many ms and with nothing pending are removed,
--       13 '1' to sweep with no free slot too, to learn whether to make one; then entry ids that this consumer has disowned (its other entries are its own business)
-- Returns: {entries {id, delivery count, fields}, 1 if the pending entries were swept, 1 if the claimed must run alone,
--       1 if more wait to be claimed,
--       1 if an event waits for a consumer with nothing in hand, ms until there is something to do here or -1, paused, held,
--       entries that were deleted behind the group's back, buried {event id, ...}, promoted, refused by full dead letters,
--       1 if entries of this consumer have expired that it did not disown (their delivery was lost on the way, if it
--       does not know them), disowned entries that are not pending for it any more}
-- Cost: O(due events, at most 200) + one scan of the pending entries per fleet and sweep interval, or 10 s per million of them if that is longer; once after the clock was
--       set back O(pending entries)
-- Idempotent: no; a lost reply leaves claimed entries pending, and `adopt` finds them
local SWEPT_PER_MS = 100
local stream, delayed, dead, stats = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer = ARGV[1], ARGV[2]
local lease, slots, idle_hands = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1'
local max_deliveries, dead_max, when_full, max_delay = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10], tonumber(ARGV[11])

-- Everything that can fail is read here, before the first write.
local alive, hold = pulse_of(stats)
local state = redis.call('HMGET', stats, 'swept_ms', 'pruned_ms', 'paused')
local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', time_ms(), 'LIMIT', 0, 200)
redis.call('XLEN', dead)
local pending_count = redis.call('XPENDING', stream, group)[1]
local now = time_ms()
local swept, pruned = moment(state[1]), moment(state[2]) or 0
hold = leave_pulse(stats, alive, hold, now, lease)

local lost, buried, promoted, refused = 0, {}, 0, 0

local function bury(fields, reason, err, deliveries, enqueued_ms)
  if not dead_has_room(dead, dead_max, when_full) then
    refused = refused + 1
    return false
  end
  add_dead(dead, stats, dead_max, when_full, fields, reason, err, deliveries, enqueued_ms, now)
  buried[#buried + 1] = field(fields, 'id')
  return true
end

for _, member in ipairs(due) do
  local fields = unframe(member)
  if fields then
    append(stream, fields)
    redis.call('ZREM', delayed, member)
    promoted = promoted + 1
  elseif bury({ 'payload', member }, 'undecodable', 'not a member that this queue wrote', 0, now) then
    redis.call('ZREM', delayed, member)
  else
    redis.call('ZADD', delayed, now + max_delay, member)
  end
end

local entries, alone, more, waits_alone, strays = {}, 0, 0, 0, 0
local disowned, taken_over = {}, {}
for i = 14, #ARGV do
  local pending = redis.call('XPENDING', stream, group, ARGV[i], ARGV[i], 1)[1]
  if pending and pending[2] == consumer then
    disowned[ARGV[i]] = true
  else
    taken_over[#taken_over + 1] = ARGV[i]
  end
end

-- One expired entry: claim it, bury it, or leave it for a consumer with nothing in hand.
-- Deliveries count crashes. The last run of an event that crashed is made alone, and only who crashed alone is buried: an
-- event that was merely prefetched or run beside a killer never is. A second claim past the limit has been such a run.
local function reclaim(id, count)
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if not entry then
    redis.call('XACK', stream, group, id)
    lost = lost + 1
    return
  end
  local fields = entry[2]
  local deliveries = earlier_deliveries(fields) + count
  if deliveries >= max_deliveries and count >= 2 then
    if not bury(fields, 'crashed', 'its consumer died while it ran alone', deliveries, entry_ms(id)) then
      redis.call('ZADD', delayed, now + max_delay, frame(id .. '-' .. count, with_deliveries(fields, deliveries)))
    end
    remove(stream, group, id)
    return
  end
  local last_run = deliveries + 1 >= max_deliveries
  if alone == 1 or (last_run and #entries > 0) or #entries >= slots then
    more = 1
    return
  end
  if last_run and not idle_hands then
    waits_alone = 1
    return
  end
  redis.call('XCLAIM', stream, group, consumer, 0, id)
  entries[#entries + 1] = { id, count + 1, fields }
  alone = last_run and 1 or 0
end

-- The clock was set back: what was delivered before was delivered in its future, and would be idle for no time until it
-- is there again. Everything pending counts as delivered now.
local function deliver_now()
  local from = '-'
  repeat
    local page = redis.call('XPENDING', stream, group, from, '+', 100)
    for _, pending in ipairs(page) do
      from = '(' .. pending[1]
      if redis.call('XRANGE', stream, pending[1], pending[1])[1] then
        redis.call('XCLAIM', stream, group, pending[2], 0, pending[1], 'JUSTID')
      end
    end
  until #page < 100
end

if redis.call('HDEL', stats, 'set_back') == 1 then
  deliver_now()
end

-- A sweep looks at everything that is pending. Where that is very much, it comes less often, and so costs no more.
local interval = math.max(tonumber(ARGV[6]), pending_count / SWEPT_PER_MS)
local open = ARGV[7] == '1' or not swept or now - swept >= interval or swept > now
local swept_now = (slots > 0 or ARGV[13] == '1') and open and now >= hold
if swept_now then
  local from, scanned = '-', 0
  while more == 0 and scanned < 1000 do
    local page = redis.call('XPENDING', stream, group, 'IDLE', lease, from, '+', 100)
    for _, pending in ipairs(page) do
      from = '(' .. pending[1]
      if pending[2] == consumer and not disowned[pending[1]] then
        strays = 1
      elseif more == 0 then
        reclaim(pending[1], pending[4])
      end
    end
    scanned = scanned + #page
    if #page < 100 then
      break
    end
  end
  -- Whoever leaves something to claim leaves the gate open: a consumer with one slot would keep it from all others.
  if more == 0 then
    redis.call('HSET', stats, 'swept_ms', now)
  end
  if #entries > 0 then
    tally(stats, 'reclaimed', #entries)
  end
  if lost > 0 then
    tally(stats, 'lost', lost)
  end
end

-- Consumers of ended processes: removed only when nothing is pending for them, or their entries would be lost.
local idle_limit = tonumber(ARGV[12])
if now - pruned > idle_limit or pruned > now then
  redis.call('HSET', stats, 'pruned_ms', now)
  for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local known = {}
    for i = 1, #info, 2 do
      known[info[i]] = info[i + 1]
    end
    if known['name'] ~= consumer and tonumber(known['pending']) == 0 and tonumber(known['idle']) > idle_limit then
      redis.call('XGROUP', 'DELCONSUMER', stream, group, known['name'])
    end
  end
end

-- When to come back before the usual interval is over: for the next delayed event, or because somebody else has swept
-- or everybody is given time to renew, and the turn may be ours then.
local next_due, first = -1, redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
if first[2] then
  -- What is never due has the score inf, which is no integer to answer with.
  next_due = math.min(math.max(0, tonumber(first[2]) - now), 2 ^ 53)
end
if slots > 0 and not swept_now then
  local opens = math.max(hold, (swept or 0) + tonumber(ARGV[6])) - now
  next_due = next_due < 0 and opens or math.min(next_due, opens)
end
return { entries, swept_now and 1 or 0, alone, more, waits_alone, next_due, state[3] or '', redis.call('XLEN', stream) + redis.call('ZCARD', delayed),
  lost, buried, promoted, refused, strays, taken_over }
