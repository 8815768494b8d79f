-- The fields of an entry: a flat list {name, value, name, value, ...}.

-- Deliveries counted by earlier entries of the same event: "d" in meta, before anything nested.
local function earlier_deliveries(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'meta' then
      return tonumber(string.match(fields[i + 1], '^{[^{}]*"d"%s*:%s*(%d+)')) or 0
    end
  end
  return 0
end

-- The same fields with `count` as the deliveries so far; fields that this release does not know are kept.
local function with_deliveries(fields, count)
  local copy, found = {}, false
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    if name == 'meta' and string.sub(value, 1, 1) == '{' then
      found = true
      local rest = string.gsub(value, '^{([^{}]-),?%s*"d"%s*:%s*%d+', '{%1', 1)
      rest = string.gsub(string.sub(rest, 2), '^%s*,', '', 1)
      value = rest == '}' and '{"d":' .. count .. '}' or '{"d":' .. count .. ',' .. rest
    end
    copy[i], copy[i + 1] = name, value
  end
  if not found and count > 0 then
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
