-- The fields of an entry: a flat list {name, value, name, value, ...}.

-- Where in a meta field the deliveries by earlier entries of the same event stand: "d", before anything nested. Of two,
-- the last one counts, as in JSON. One look at each character: a strange field must not keep the server busy.
local COUNT = '^{[^{}]*"d"%s*:%s*()%d+()'

-- Deliveries counted by earlier entries of the same event; of two meta fields the last one counts.
local function earlier_deliveries(fields)
  local deliveries = 0
  for i = 1, #fields, 2 do
    if fields[i] == 'meta' then
      local from, to = string.match(fields[i + 1], COUNT)
      deliveries = from and tonumber(string.sub(fields[i + 1], from, to - 1)) or 0
    end
  end
  return deliveries
end

-- The same fields with `count` as the deliveries so far; fields that this release does not know are kept.
local function with_deliveries(fields, deliveries)
  local copy, found, count = {}, false, string.format('%.0f', deliveries)
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    if name == 'meta' and string.sub(value, 1, 1) == '{' then
      found = true
      local from, to = string.match(value, COUNT)
      if from then
        value = string.sub(value, 1, from - 1) .. count .. string.sub(value, to)
      else
        local rest = string.sub(value, 2)
        value = '{"d":' .. count .. (string.match(rest, '^%s*}') and rest or ',' .. rest)
      end
    end
    copy[i], copy[i + 1] = name, value
  end
  if not found and deliveries > 0 then
    copy[#copy + 1] = 'meta'
    copy[#copy + 1] = '{"d":' .. count .. '}'
  end
  return copy
end

local function field(fields, wanted)
  for i = 1, #fields, 2 do
    if fields[i] == wanted then
      return fields[i + 1]
    end
  end
  return ''
end
