-- Reserves amounts of limits for requests of one gateway.
--
-- KEYS: one hash per limit. A field of it is one gateway: "TOTAL SETTLED TIME". TOTAL: what the gateway has used, has
-- reserved for requests in flight, and may use without asking. SETTLED: what it has used. TIME: of its last call, in ms. Of
-- gateways that have not called within the lease, only SETTLED counts.
--
-- ARGV: gateway, lease in ms; per limit: amount, used (with reserved), reserved, usual amount of a request (0: grant nothing
-- in advance), end of the window in ms (0: none); then per request the amount of each limit.
--
-- Returns: one digit per request (1: reserved), then per limit what other gateways use, and TOTAL.
local gateway, lease = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local at = 3
local limits = {}
for i = 1, #KEYS do
  local limit = {
    amount = tonumber(ARGV[at]),
    used = tonumber(ARGV[at + 1]),
    reserved = tonumber(ARGV[at + 2]),
    usual = tonumber(ARGV[at + 3]),
    ends = tonumber(ARGV[at + 4]),
    others = 0,
    gateways = 1,
  }
  at = at + 5
  local fields = redis.call('HGETALL', KEYS[i])
  for f = 1, #fields, 2 do
    if fields[f] ~= gateway then
      local total, settled, called = string.match(fields[f + 1], '^(%d+) (%d+) (%d+)$')
      if total and now - tonumber(called) < lease then
        limit.others = limit.others + tonumber(total)
        limit.gateways = limit.gateways + 1
      elseif total and tonumber(settled) > 0 then
        limit.others = limit.others + tonumber(settled)
      else
        redis.call('HDEL', KEYS[i], fields[f])
      end
    end
  end
  limits[i] = limit
end

local reply = { '' }
while at <= #ARGV do
  local fits = 1
  for i, limit in ipairs(limits) do
    local needed = math.min(tonumber(ARGV[at + i - 1]), limit.amount)
    if needed > 0 and needed > limit.amount - limit.others - limit.used then
      fits = 0
    end
  end
  if fits == 1 then
    for i, limit in ipairs(limits) do
      local needed = tonumber(ARGV[at + i - 1])
      limit.used = limit.used + needed
      limit.reserved = limit.reserved + needed
    end
  end
  reply[1] = reply[1] .. fits
  at = at + #limits
end

for i, limit in ipairs(limits) do
  -- In advance only where the limit is far: an amount that one gateway keeps must not reject requests at another one.
  local rest, advance = limit.amount - limit.others - limit.used, 0
  if limit.usual > 0 and rest >= 128 * limit.usual then
    advance = math.floor(rest / (8 * limit.gateways))
  end
  local total = limit.used + advance
  if total > 0 then
    local value = string.format('%.0f %.0f %.0f', total, limit.used - limit.reserved, now)
    redis.call('HSET', KEYS[i], gateway, value)
    if limit.ends > 0 then
      redis.call('PEXPIREAT', KEYS[i], string.format('%.0f', limit.ends))
    else
      redis.call('PEXPIRE', KEYS[i], 4 * lease)
    end
  else
    redis.call('HDEL', KEYS[i], gateway)
  end
  reply[#reply + 1] = string.format('%.0f', limit.others)
  reply[#reply + 1] = string.format('%.0f', total)
end
return reply
