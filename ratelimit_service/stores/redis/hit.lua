-- Applies a batch of hits, in one step and one round trip.
--
-- KEYS  the counter of each hit, in the order in which the hits are applied; the register of the lane; then the book
--       of each entry of a ledger, except those of refused requests, in the order of the entries
-- ARGV  the number of this batch, and for how many seconds Redis keeps the register;
--       for each hit: its amount, and the time to live of a new key in seconds;
--       if there are entries of ledgers: how many runs of them, and for each run its form, its name in the book, the
--       time to live of a new book, how many entries it has, and for each entry the place of its hit. An entry has the
--       amount of its hit (form 0), or its amount follows (1); or it is of a refused request (2), whose hit has no
--       counter, but the book as its key, and whose amount follows;
--       then for each group of hits that may be held back: the place of its first hit, how many hits it has,
--       and for each hit its gate (1 refuses + 2 yields + 4 holds + 8 budget + 16 aside; see core/gates.py) and its
--       limit, then for a hit on holds (16) thirteen fields (holds.lua, parse);
--       last, if there are entries of ledgers: L, and how many books there are
-- Returns for each hit the value of the counter before it; the bitwise complement of that value (-before - 1)
-- if the hit was held back; a text if it failed. A hit on holds has a result of its own (core/holds/hit.py).
-- Then a text if holds could not be read or written. If entries could not be written, that text can be empty, and
-- two more elements follow: why, and how many.
--
-- The register holds the number of the last batch of its lane. A batch that is sent again, because its
-- outcome is unknown, finds its own number there and only reads (stores/lanes.py). The register is written
-- first: a Redis that cannot be written to (read-only, out of memory) then fails the whole call, and applies
-- nothing of the batch. A batch with an empty number writes nothing, and leaves the register alone.
--
-- This must be a script for three reasons: a request is refused or counted as a whole, a caller gets the
-- value of the counter at the moment of its hit, and a refund leaves no counter below 0.
--
-- INCRBY and DECRBY get the amount as the text in ARGV: Lua would write 2^53+1 as 9.007199254741e+15.
-- Every command is a pcall, so a key that is not a counter fails only its own hit, and not the rest of the
-- batch. memory.py is the twin of this script.

local MAX = 9007199254740991  -- 2^53 - 1, the largest integer that is exact in Lua; counters saturate there
local MAX_TEXT = '9007199254740991'
local REFUSES, YIELDS, HOLDS, BUDGET, ASIDE = 1, 2, 4, 8, 16
local HOLD_FIELDS = 13
local MINUS = 45  -- the byte of '-'

-- Locals for what every hit uses: Lua reads them faster than globals and their fields.
local KEYS, ARGV, pcall, tonumber, type = KEYS, ARGV, redis.pcall, tonumber, type

local function has(gate, flag)
    return bit.band(gate, flag) ~= 0
end

local CHARGED_AS_HIT, CHARGED, REFUSED = '0', '1', '2'  -- forms of runs

local BOOKS = string.match(ARGV[#ARGV], '^L(%d+)$')
local HITS = #KEYS - 1 - (BOOKS or 0)

local replayed = false
if ARGV[1] ~= '' then
    local last = pcall('SET', KEYS[HITS + 1], ARGV[1], 'EX', ARGV[2], 'GET')
    if type(last) == 'table' then
        return last
    end
    replayed = last == ARGV[1]
end

-- Returns the value of a counter, within 0 ... MAX; or nil and the error.
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

-- Sets the time to live of a counter that has none.
local function keep_for(key, ttl)
    if pcall('TTL', key) == -1 then
        pcall('EXPIRE', key, ttl)
    end
end

-- Adds `amount`, the text of `number`. Returns the value before, or nil and the error.
local function add(key, amount, number, ttl)
    local after = pcall('INCRBY', key, amount)
    if type(after) == 'table' then
        return nil, after.err
    end
    local before = after - number
    if after > MAX then  -- no longer exact: undo it to read the value before
        pcall('DECRBY', key, amount)
        before = read(key)
        pcall('SET', key, MAX_TEXT, 'KEEPTTL')
    end
    keep_for(key, ttl)
    return before < 0 and 0 or before
end

-- Subtracts `amount`, down to 0 at most. Returns the value before, or nil and the error.
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

local held, aside = {}, {}
local holds  -- the functions of holds.lua, once a group needs them

-- Marks the hits of a group that are held back. If any hit refuses, these are the hits with HOLDS, and those
-- with YIELDS that have room. Returns where the arguments of the next group begin.
local function hold_back(first, at)
    local size = tonumber(ARGV[at])
    local refused, gates, over, counts, limits = false, {}, {}, {}, {}
    local on_holds
    local writes = false
    at = at + 1
    for i = 0, size - 1 do
        local amount = tonumber(ARGV[2 * (first + i) + 1])
        local gate, limit = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
        at = at + 2
        gates[i], limits[i] = gate, limit
        if has(gate, ASIDE) then
            holds = holds or use_holds()
            on_holds = on_holds or {}
            on_holds[i] = holds.parse(KEYS[first + i], at)
            at = at + HOLD_FIELDS
        else
            local before = read(KEYS[first + i])
            counts[i] = before
            writes = writes or amount ~= 0
            if not before or amount < 0 then
                over[i] = false
            elseif has(gate, BUDGET) then
                over[i] = before >= limit
            else
                over[i] = before + amount > limit
            end
            refused = refused or (over[i] and has(gate, REFUSES))
        end
    end
    if on_holds and replayed then
        for i in pairs(on_holds) do
            aside[first + i] = 0
        end
    elseif on_holds then
        refused = holds.apply_group(on_holds, first, size, counts, limits, refused, held, aside)
    end
    if on_holds and not writes then  -- nothing of this group changes a counter: they need not be read again
        for i, before in pairs(counts) do
            aside[first + i] = before
        end
    end
    if refused then
        for i = 0, size - 1 do
            local gate = gates[i]
            held[first + i] = held[first + i] or has(gate, HOLDS) or (has(gate, YIELDS) and not over[i])
        end
    end
    return at
end

-- The groups that may be held back are in the order of their hits. Before them stand the entries of ledgers.
local group = 2 * HITS + 3
local runs, first_run = 0, group + 1
if BOOKS then
    runs, group = tonumber(ARGV[group]), first_run
    for _ = 1, runs do
        local form, size = ARGV[group], tonumber(ARGV[group + 3])
        group = group + 4
        if form == REFUSED then
            for at = group, group + 2 * size - 1, 2 do
                aside[tonumber(ARGV[at])] = 0
            end
        end
        group = group + (form == CHARGED_AS_HIT and size or 2 * size)
    end
end
local first_of_group = tonumber(ARGV[group])

local counts = {}
for i = 1, HITS do
    if i == first_of_group then
        group = hold_back(i, group + 1)
        first_of_group = tonumber(ARGV[group])
    end
    local key, amount, ttl = KEYS[i], ARGV[2 * i + 1], ARGV[2 * i + 2]
    local number = tonumber(amount)
    local before, failure
    if aside[i] then
        before = aside[i]
    elseif number == 0 or replayed then
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
if holds then
    counts[HITS + 1] = holds.write()
end
if BOOKS and not replayed then
    local failure, failures = nil, 0

    -- Adds `amount`, a text, to an entry.
    local function record(book, entry, amount, life)
        if amount == '0' then
            return
        end
        local after = pcall('HINCRBY', book, entry, amount)
        if type(after) == 'table' then
            failure, failures = after.err, failures + 1
        elseif after == tonumber(amount) then  -- the entry is new, and so may be the book
            keep_for(book, life)
        end
    end

    local at, book = first_run, HITS + 1
    for _ = 1, runs do
        local form, entry, life, size = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
        local step = form == CHARGED_AS_HIT and 1 or 2
        local charged, last = entry .. ':charged', at + 3 + step * size
        for i = at + 4, last, step do
            local place = tonumber(ARGV[i])
            local before, amount = counts[place], step == 1 and ARGV[2 * place + 1] or ARGV[i + 1]
            if form == REFUSED then
                record(KEYS[place], entry .. ':refused', amount, life)
            else
                book = book + 1
                if type(before) == 'number' and before >= 0 then  -- else it was not counted
                    if string.byte(amount) == MINUS then
                        amount = string.format('%.0f', math.min(before, -tonumber(amount)))
                        record(KEYS[book], entry .. ':refunded', amount, life)
                    else
                        record(KEYS[book], charged, amount, life)
                    end
                end
            end
        end
        at = last + 1
    end
    if failure then
        counts[HITS + 1], counts[HITS + 2], counts[HITS + 3] = counts[HITS + 1] or '', failure, failures
    end
end
return counts
