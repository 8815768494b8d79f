-- What XINFO GROUPS says of our group, by name; an empty queue without a group reads like one that was never used.
local function group_info(stream, group)
  if redis.call('EXISTS', stream) == 1 then
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
      local info = {}
      for i = 1, #flat, 2 do
        info[flat[i]] = flat[i + 1]
      end
      if info['name'] == group then
        return info
      end
    end
  end
  return { ['pending'] = 0, ['consumers'] = 0, ['last-delivered-id'] = '0-0' }
end
