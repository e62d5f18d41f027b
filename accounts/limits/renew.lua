-- The process that runs these claims lives. KEYS: sorted sets of running claims. ARGV: ms of a
-- lease, and whether lost claims are put back (1, 0); then the claim that is in the set of the same
-- place. Returns the places (from 0) of those that are not there any more.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease_ms, puts_back = tonumber(ARGV[1]), ARGV[2] == '1'

local lost = {}
for place, running in ipairs(KEYS) do
  local claim = ARGV[2 + place]
  if puts_back or redis.call('ZSCORE', running, claim) then
    redis.call('ZADD', running, now + lease_ms, claim)
    redis.call('PEXPIRE', running, 2 * lease_ms)
  else
    lost[#lost + 1] = place - 1
  end
end
return lost
