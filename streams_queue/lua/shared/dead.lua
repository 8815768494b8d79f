-- Adding to the dead letters. Five fields of our own follow the entry's; redrive takes exactly these off again.

-- Whether one more dead letter may be kept (`drop` makes room by itself).
local function dead_has_room(dead, max_size, when_full)
  return when_full == 'drop' and max_size > 0 or redis.call('XLEN', dead) < max_size
end

local function add_dead(dead, stats, max_size, when_full, fields, reason, err, deliveries, enqueued_ms, died_ms)
  local entry = {}
  for i, value in ipairs(carried(fields)) do
    entry[i] = value
  end
  local own = { 'reason', reason, 'error', err, 'deliveries', deliveries, 'enqueued_ms', enqueued_ms, 'died_ms', died_ms }
  for i = 1, #own do
    entry[#entry + 1] = own[i]
  end
  if when_full == 'drop' then
    local surplus = redis.call('XLEN', dead) + 1 - max_size
    redis.call('XADD', dead, 'MAXLEN', max_size, '*', unpack(entry))
    if surplus > 0 then
      tally(stats, 'dropped', surplus)
    end
  else
    redis.call('XADD', dead, '*', unpack(entry))
  end
  tally(stats, 'dead', 1)
end

local function entry_ms(id)
  return string.match(id, '^%d+')
end
