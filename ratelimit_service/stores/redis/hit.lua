-- Applies a batch of hits, in one step and one round trip.
--
-- KEYS  the counter of each hit, in the order in which the hits are applied; last the register of the lane
-- ARGV  the number of this batch, and for how many seconds the register is kept;
--       for each hit: its amount, and the time to live of a new counter in seconds;
--       then for each group of hits that may be held back: the place of its first hit, how many they are,
--       and for each of them its gate (1 refuses + 2 yields + 4 holds + 8 budget; see model.Gate) and its limit
-- Returns for each hit what the counter held before it; its bitwise complement (-before - 1) where the hit was held back;
--       a text where this hit failed
--
-- The register holds the number of the last batch that came by its lane. A batch that is sent again, because nobody knows
-- whether it was applied, finds its own number there and only reads (layers/settling.py). Writing the register first also makes
-- sure that a Redis which cannot be written to (read-only, out of memory) applies nothing of the batch: the call fails
-- as a whole. An empty number is for batches that write nothing, and leaves the register alone.
--
-- It must be a script, because a request is refused or counted as a whole, because what a caller is told must be what
-- the counter held at the moment of the hit, and because a refund must not leave less than nothing.
--
-- Amounts reach INCRBY and DECRBY as the argument's own text: Lua would write 2^53+1 as 9.007199254741e+15. Every command
-- is a pcall, so that a key that is no counter fails its own hit and not the batch, half of which would be counted.
-- The twin of this script is memory.py.

local MAX = 9007199254740991  -- 2^53 - 1, the largest integer that Lua has exactly; counters saturate there
local MAX_TEXT = '9007199254740991'
local REFUSES, YIELDS, HOLDS, BUDGET = 1, 2, 4, 8

-- What every hit needs: Lua finds locals quicker than globals and their fields.
local KEYS, ARGV, pcall, tonumber, type = KEYS, ARGV, redis.pcall, tonumber, type

local function has(gate, flag)
    return bit.band(gate, flag) ~= 0
end

local HITS = #KEYS - 1

local replayed = false
if ARGV[1] ~= '' then
    local last = pcall('SET', KEYS[#KEYS], ARGV[1], 'EX', ARGV[2], 'GET')
    if type(last) == 'table' then
        return last
    end
    replayed = last == ARGV[1]
end

-- What a counter holds, as 0 ... MAX; or nil and why it cannot be told.
local function read(key)
    local value = pcall('GET', key)
    if not value then
        return 0
    elseif type(value) == 'table' then
        return nil, value.err
    elseif not string.find(value, '^%-?%d+$') then
        return nil, 'ERR value is not an integer'
    end
    return math.max(0, math.min(MAX, tonumber(value)))
end

local function keep_for(key, ttl)
    if pcall('TTL', key) == -1 then
        pcall('EXPIRE', key, ttl)
    end
end

-- Adds the text `amount`, which is the number `number`.
local function add(key, amount, number, ttl)
    local after = pcall('INCRBY', key, amount)
    if type(after) == 'table' then
        return nil, after.err
    end
    local before = after - number
    if after > MAX then  -- not exact any more: step back to see what was there
        pcall('DECRBY', key, amount)
        before = read(key)
        pcall('SET', key, MAX_TEXT, 'KEEPTTL')
    end
    keep_for(key, ttl)
    return before < 0 and 0 or before
end

local function give_back(key, amount, ttl)
    local before, failure = read(key)
    if not before or before == 0 then
        return before, failure
    end
    local done
    if tonumber(amount) < before then
        done = pcall('DECRBY', key, amount)
    else
        done = pcall('SET', key, '0', 'KEEPTTL')
    end
    if type(done) == 'table' and done.err then
        return nil, done.err
    end
    keep_for(key, ttl)
    return before
end

local held = {}

-- Marks the hits of a group that are held back where one refuses: those that hold, and those that yield and have room.
local function hold_back(first, at)
    local size = tonumber(ARGV[at])
    local refused, gates, over = false, {}, {}
    for i = 0, size - 1 do
        local amount = tonumber(ARGV[2 * (first + i) + 1])
        local gate, limit = tonumber(ARGV[at + 1 + 2 * i]), tonumber(ARGV[at + 2 + 2 * i])
        local before = read(KEYS[first + i])
        gates[i] = gate
        if not before or amount < 0 then
            over[i] = false
        elseif has(gate, BUDGET) then
            over[i] = before >= limit
        else
            over[i] = before + amount > limit
        end
        refused = refused or (over[i] and has(gate, REFUSES))
    end
    if refused then
        for i = 0, size - 1 do
            held[first + i] = has(gates[i], HOLDS) or (has(gates[i], YIELDS) and not over[i])
        end
    end
end

-- The groups that may be held back follow each other in the order of their hits.
local group = 2 * HITS + 3
local first_of_group = tonumber(ARGV[group])

local counts = {}
for i = 1, HITS do
    if i == first_of_group then
        hold_back(i, group + 1)
        group = group + 2 + 2 * tonumber(ARGV[group + 1])
        first_of_group = tonumber(ARGV[group])
    end
    local key, amount, ttl = KEYS[i], ARGV[2 * i + 1], ARGV[2 * i + 2]
    local number = tonumber(amount)
    local before, failure
    if number == 0 or replayed then
        before, failure = read(key)
    elseif held[i] then
        before, failure = read(key)
        before = before and -before - 1
    elseif number < 0 then
        before, failure = give_back(key, string.sub(amount, 2), ttl)
    else
        before, failure = add(key, amount, number, ttl)
    end
    counts[i] = before or failure
end
return counts
