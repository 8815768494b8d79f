--!include tally migration
-- Move the oldest items of a list into the queue's stream, each as enqueue would have added it, and those that are no events
-- to the set-aside list; all in one step, so that there is no moment in which an item is in both places, or in none.
-- KEYS: 1 list, 2 record, 3 set-aside, 4 stream, 5 delayed, 6 stats
-- ARGV: 1 list's name in the record, 2 how many events the queue may hold, then per item, the oldest first:
--       the item as it was seen, why it is no event (empty: it is one), event id, meta, payload (empty: the item itself)
-- Returns: {status, moved, set aside, how many of the planned ones are left}
--       status: ok | changed (an item is not where it was seen any more) | full | paused | lost (there is no record)
-- Cost: O(items)
-- Idempotent: yes; what was moved is not found again
local FIRST, WIDTH = 3, 5
local part, max_size = ARGV[1], tonumber(ARGV[2])

-- Types are looked at before the first write: a script does not roll back.
local before, known = redis.call('LLEN', KEYS[1]), known_length(KEYS[2], part)
if not known then
  return { 'lost', 0, 0, 0 }
end
redis.call('LLEN', KEYS[3])
local paused = string.find(redis.call('HGET', KEYS[6], 'paused') or '', 'intake', 1, true)
local held = redis.call('XLEN', KEYS[4]) + redis.call('ZCARD', KEYS[5])
local planned = part == 'processing' and tonumber(redis.call('HGET', KEYS[2], 'requeue_left')) or nil

local moved, reasons, aside, status = 0, {}, 0, 'ok'
for at = FIRST, #ARGV, WIDTH do
  local item, reason, payload = ARGV[at], ARGV[at + 1], ARGV[at + 4]
  if planned and moved + aside >= planned then
    break
  elseif redis.call('LINDEX', KEYS[1], -1) ~= item then
    status = 'changed'
    break
  elseif reason ~= '' then
    redis.call('LMOVE', KEYS[1], KEYS[3], 'RIGHT', 'LEFT')
    reasons[reason], aside = (reasons[reason] or 0) + 1, aside + 1
  elseif paused or held >= max_size then
    status = paused and 'paused' or 'full'
    break
  else
    -- First of the two, so that the step is refused as a whole with no memory left.
    redis.call('XADD', KEYS[4], '*', 'id', ARGV[at + 2], 'payload', payload == '' and item or payload, 'meta', ARGV[at + 3])
    -- Not RPOP, whose reply would be another copy of the item.
    redis.call('LTRIM', KEYS[1], 0, -2)
    held, moved = held + 1, moved + 1
  end
end

if moved + aside > 0 then
  note(KEYS[2], part, KEYS[1], known, before, moved, aside)
  for reason, count in pairs(reasons) do
    redis.call('HINCRBY', KEYS[2], 'unfit_' .. reason, count)
  end
  if planned then
    planned = redis.call('HINCRBY', KEYS[2], 'requeue_left', -moved - aside)
  end
end
if moved > 0 then
  tally(KEYS[6], 'enqueued', moved)
end
return { status, moved, aside, planned or 0 }
