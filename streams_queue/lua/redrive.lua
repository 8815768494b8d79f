--!include tally entry frame
-- Put dead letters back into the queue with a fresh delivery count. Unlike retries, a redrive needs room.
-- KEYS: 1 stream, 2 delayed, 3 dead, 4 stats
-- ARGV: 1 max_size, then different ids of dead letters
-- Returns: {how many went back, 1 if the queue is full}
-- Cost: O(dead letters put back)
-- Idempotent: a second copy finds the dead letters gone
redis.call('HGET', KEYS[4], 'redriven')
local room = tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1]) - redis.call('ZCARD', KEYS[2])
local entries = {}
for i = 2, #ARGV do
  local entry = redis.call('XRANGE', KEYS[3], ARGV[i], ARGV[i])[1]
  if entry and #entries < room then
    entries[#entries + 1] = entry
  end
end

local OWN_FIELDS = 10
for _, entry in ipairs(entries) do
  local id, fields, original = entry[1], entry[2], {}
  -- A dead letter that is nothing but these is put back as it is: an entry has at least one field.
  local own = #fields > OWN_FIELDS and fields[#fields - OWN_FIELDS + 1] == 'reason' and OWN_FIELDS or 0
  for i = 1, #fields - own do
    original[i] = fields[i]
  end
  original = with_deliveries(original, 0)
  for i = 1, #original, 2 do
    if original[i] == 'meta' and string.sub(original[i + 1], 1, 1) == '{' then
      local meta = string.gsub(original[i + 1], ',"rf":"[%d-]*"', '', 1)
      meta = string.gsub(meta, '^{"rf":"[%d-]*",', '{', 1)
      original[i + 1] = '{"rf":"' .. id .. '",' .. string.sub(meta, 2)
    end
  end
  append(KEYS[1], original)
  redis.call('XDEL', KEYS[3], id)
end
if #entries > 0 then
  tally(KEYS[4], 'redriven', #entries)
end
return { #entries, #entries >= room and 1 or 0 }
