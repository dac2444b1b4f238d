-- The part of the script (hit.lua) that applies hits one by one: refunds, hits that may be held back, all
-- hits of a replayed batch, and all hits from the first counter on whose value is unusual.

-- Applies the hits from `from` to `last`, and puts the results into `counts`. `amounts` and `ttls` are the
-- arguments of each hit, as texts. The groups that may be held back begin at ARGV[group], if there are any.
-- `aside` has the results of hits that are not on counters. A `replayed` batch only reads.
local function in_turn(from, last, counts, amounts, ttls, group, aside, replayed)
    local MAX_TEXT = '9007199254740991'
    local REFUSES, YIELDS, HOLDS, BUDGET, ASIDE = 1, 2, 4, 8, 16
    local HOLD_FIELDS = 14

    local function has(gate, flag)
        return bit.band(gate, flag) ~= 0
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
        if after > MAX then  -- not exact: undo it, to read the value before
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

    local held = {}
    local holds  -- the functions of holds.lua, once a group needs them

    -- Marks the hits of a group that are held back. If any hit refuses, these are the hits with HOLDS, and
    -- those with YIELDS that have room. Returns the place of the arguments of the next group.
    local function hold_back(first, at)
        local size = tonumber(ARGV[at])
        local refused, gates, over, counts, limits = false, {}, {}, {}, {}
        local on_holds
        local writes = false
        at = at + 1
        for i = 0, size - 1 do
            local amount = tonumber(amounts[first + i])
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
        if on_holds and not writes then  -- the group changes no counter: do not read them again
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

    local first_of_group = group and tonumber(ARGV[group])
    local failed = false
    for i = from, last do
        if i == first_of_group then
            group = hold_back(i, group + 1)
            first_of_group = tonumber(ARGV[group])
        end
        local key, amount, ttl = KEYS[i], amounts[i], ttls[i]
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
        failed = failed or failure ~= nil
    end
    if holds and failed then
        holds.forget_uncounted(counts)
    end
    if holds then
        counts[last + 1] = holds.write()
    end
end

local ttls = {}
amounts = amounts or {}
for i = first, hits do
    amounts[i] = ARGV[at]
    if amounts[i] == '0' then
        at = at + 1
    else
        ttls[i] = ARGV[at + 1]
        at = at + 2
    end
end

local REFUSED = '2'  -- the form of a run
if kind and not runs then
    runs, run, book = tonumber(ARGV[at]), at + 1, hits + 1
end
if first <= hits then
    local aside, group = {}, nil
    if kind == IN_TURN then
        group = run
        for _ = 1, runs do
            local form, size = ARGV[group], tonumber(ARGV[group + 3])
            group = group + 4
            if form == REFUSED then
                for entry = group, group + 2 * size - 1, 2 do
                    aside[tonumber(ARGV[entry])] = 0
                end
            end
            group = group + (form == CHARGED_AS_HIT and size or 2 * size)
        end
    end
    in_turn(first, hits, counts, amounts, ttls, group, aside, replayed)
end

