--!include time group
-- Look at who holds what: the consumers of the group, and pending entries from a given one on.
-- KEYS: 1 stream
-- ARGV: 1 group, 2 first entry id, or '-', 3 most entries to return, 4 '1' with their payloads, '0' without
-- Returns: {server time in ms, consumers {name, pending, idle in ms},
--       entries {id, consumer, idle in ms, delivery count, fields; none where the entry is gone}}
-- Cost: O(consumers + entries returned)
-- Idempotent: reads only
local consumers, entries = {}, {}
if group_info(KEYS[1], ARGV[1])['name'] then
  for i, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local info = {}
    for j = 1, #flat, 2 do
      info[flat[j]] = flat[j + 1]
    end
    consumers[i] = { info['name'], info['pending'], info['idle'] }
  end
  for i, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], '+', ARGV[3])) do
    local entry = redis.call('XRANGE', KEYS[1], pending[1], pending[1])[1]
    local fields, shown = entry and entry[2] or {}, {}
    for j = 1, #fields, 2 do
      if ARGV[4] == '1' or fields[j] ~= 'payload' then
        shown[#shown + 1] = fields[j]
        shown[#shown + 1] = fields[j + 1]
      end
    end
    entries[i] = { pending[1], pending[2], pending[3], pending[4], shown }
  end
end
return { time_ms(), consumers, entries }
