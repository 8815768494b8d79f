-- Members of the delayed set: a unique prefix and the entry's fields, each written as <length>:<bytes>.
-- No cjson or cmsgpack round trip: [] would become {}, big integers would round.

local function frame(prefix, fields)
  local parts = { #prefix .. ':' .. prefix }
  for i = 1, #fields do
    parts[i + 1] = #fields[i] .. ':' .. fields[i]
  end
  return table.concat(parts)
end

-- Lua hands at most some thousand values to one command. A foreign entry with more is kept as one field, in full.
local MOST_FIELDS = 2000

local function carried(fields)
  if #fields <= MOST_FIELDS then
    return fields
  end
  return { 'payload', frame('fields', fields) }
end

local function append(stream, fields)
  return redis.call('XADD', stream, '*', unpack(carried(fields)))
end

-- The fields of a member, or nil if it was not written by frame().
local function unframe(member)
  local parts, position = {}, 1
  while position <= #member do
    local _, colon, length = string.find(member, '^(%d+):', position)
    if not colon or #length > 10 or colon + tonumber(length) > #member then
      return nil
    end
    position = colon + tonumber(length) + 1
    parts[#parts + 1] = string.sub(member, colon + 1, position - 1)
  end
  if #parts < 3 or #parts % 2 == 0 then
    return nil
  end
  table.remove(parts, 1)
  return parts
end
