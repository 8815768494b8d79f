--!include tally time frame dead group
-- Put exported events back, a page at a time: all of it or, if there is no room, nothing. Like a redrive, it does not mind
-- that the intake is paused.
-- KEYS: 1 stream, 2 delayed, 3 dead, 4 stats, 5 imports
-- ARGV: 1 group, 2 max_size, 3 dead max_size, 4 export, 5 which of its events are in before this page (empty: none),
--       6 and with it, then per event: w | d | x, entry id | due in ms | dead id (empty: a new one), the fields as a member of
--       the delayed set
-- Returns: {status, room, which events are in, as the server knows it}
--       status: done | full | dead_full | elsewhere (other events are in than those of `before`); only `done` did anything
--       room: how many events, or dead letters, there is room for
-- Cost: O(events)
-- Idempotent: yes, by which events are in
local held = redis.call('XLEN', KEYS[1]) + redis.call('ZCARD', KEYS[2])
local dead = redis.call('XLEN', KEYS[3])
redis.call('HGET', KEYS[4], 'imported')
local known = redis.call('HGET', KEYS[5], ARGV[4]) or ''
if known == ARGV[6] then
  return { 'done', 0, known }
elseif known ~= ARGV[5] then
  return { 'elsewhere', 0, known }
end

local now, live, buried, entries = time_ms(), 0, 0, {}
for i = 7, #ARGV, 3 do
  if ARGV[i] == 'x' then
    buried = buried + 1
  else
    live = live + 1
  end
  if ARGV[i] ~= 'd' then
    entries[i] = unframe(ARGV[i + 2])
    if not entries[i] then
      return redis.error_reply('ERR the fields of an event cannot be read')
    end
  end
end
if live > 0 and held + live > tonumber(ARGV[2]) then
  return { 'full', math.max(0, tonumber(ARGV[2]) - held), known }
elseif buried > 0 and dead + buried > tonumber(ARGV[3]) then
  return { 'dead_full', math.max(0, tonumber(ARGV[3]) - dead), known }
end

-- The entry's own id, which says when it was enqueued, where it is above all that the stream has had; else a new one.
local function add(key, id, fields, above)
  local ms = tonumber(entry_ms(id))
  if ms and ms > above and ms <= now and type(redis.pcall('XADD', key, id, unpack(fields))) == 'string' then
    return
  end
  redis.call('XADD', key, '*', unpack(fields))
end

local delivered_ms = tonumber(entry_ms(group_info(KEYS[1], ARGV[1])['last-delivered-id']))
for i = 7, #ARGV, 3 do
  if ARGV[i] == 'w' then
    add(KEYS[1], ARGV[i + 1], carried(entries[i]), delivered_ms)
  elseif ARGV[i] == 'd' then
    redis.call('ZADD', KEYS[2], ARGV[i + 1], ARGV[i + 2])
  else
    add(KEYS[3], ARGV[i + 1], carried(entries[i]), 0)
  end
end
redis.call('HSET', KEYS[5], ARGV[4], ARGV[6])
if live > 0 then
  tally(KEYS[4], 'enqueued', live)
end
tally(KEYS[4], 'imported', live + buried)
return { 'done', 0, ARGV[6] }
