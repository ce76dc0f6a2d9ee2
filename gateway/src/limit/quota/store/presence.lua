-- Returns how many gateways use the store, and how many of them come before this one.
--
-- KEYS: a hash of gateways and the times of their last calls in ms. ARGV: gateway, lease in ms, 0 if the gateway ends.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[3] == '0' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now))
end
local fields = redis.call('HGETALL', KEYS[1])
local count, before = 0, 0
for f = 1, #fields, 2 do
  if now - tonumber(fields[f + 1]) < tonumber(ARGV[2]) then
    count = count + 1
    if fields[f] < ARGV[1] then
      before = before + 1
    end
  else
    redis.call('HDEL', KEYS[1], fields[f])
  end
end
redis.call('PEXPIRE', KEYS[1], 4 * tonumber(ARGV[2]))
return { count, before }
