-- The part of the script (hit.lua) that applies hits on holds: one function, so that a batch without holds
-- creates only one closure. core/holds/state.py and stores/holds.py are its twins.
--
-- The holds of a bucket are a hash, <bucket>:held:
--     <second at which they expire>   <tokens>:<holds>
--     charges, mean, square, share, flight, marked, refusals, refused_at    the learned values (state.Holds)
--     kept                          the second at which its time to live was last set
-- The ids that came back are a sorted set beside it, <bucket>:held:ids: c<id> of a charge, n<id> of a refund,
-- r<id> of a release, by the second. It is in the slot of the bucket, but not in KEYS: only hits with an id
-- use it.

local function use_holds()
    local LEARN = 1 / 46
    local REMEMBERED, MOST_IDS, KEPT, KEPT_AGAIN = 120, 20000, 86400, 3600
    local MOST_KNOWN, REFUSAL, FIRST_DELAY, LONGEST_DELAY = 1000, 2, 2, 10
    local EXPIRED, MOST, MOST_EXPIRED = 17179869184, 17179869183, 131072  -- 2^34, 2^34 - 1, 2^17
    local DELAYS, MOST_HELD = 16, 281474976710656  -- 2^48
    local TAKE, CHARGE, REFUND = 1, 2, 4
    local FLOATS = {mean = true, square = true, share = true, flight = true}

    local KEYS, ARGV, pcall, tonumber, type = KEYS, ARGV, redis.pcall, tonumber, type
    local floor, min, max = math.floor, math.min, math.max
    local format, match = string.format, string.match

    local known = {}  -- the holds of each key of this call
    local failure  -- the first error of reading or writing holds in this call
    local new_ids = {}  -- the charges and refunds with an id that are counted in this call

    -- Calls Redis, and returns its reply; nil for an error, which fails no hit.
    local function ask(...)
        local reply = pcall(...)
        if type(reply) == 'table' and reply.err then
            failure = failure or reply.err
            return nil
        end
        return reply
    end

    local function holds_of(key)
        local holds = known[key]
        if holds then
            return holds
        end
        holds = {
            slots = {}, changed = {}, charges = 0, mean = 0, square = 0, share = 1, flight = 0, marked = 0,
            refusals = 0, refused_at = 0, kept = 0,
        }
        known[key] = holds
        local found = ask('HGETALL', key)
        if not found then  -- not a hash, or forbidden: nothing counts as held, and nothing is written
            holds.broken = true
            return holds
        end
        for i = 1, #found, 2 do
            local field, value = found[i], found[i + 1]
            local default = holds[field]
            if type(default) == 'number' then
                holds[field] = tonumber(value) or default
            else
                local tokens, number = match(value, '^(%d+):(%d+)$')
                local expiry = tonumber(field)
                if tokens and expiry then
                    holds.slots[expiry] = {tonumber(tokens), tonumber(number)}
                end
            end
        end
        return holds
    end

    local function set(holds, field, value)
        holds[field] = value
        holds.changed[field] = FLOATS[field] and format('%.17g', value) or format('%.0f', value)
    end

    local function set_slot(holds, expiry, tokens, number)
        local field = format('%.0f', expiry)
        if tokens == 0 and number == 0 then
            holds.slots[expiry] = nil
            holds.changed[field] = false
        else
            holds.slots[expiry] = {tokens, number}
            holds.changed[field] = format('%.0f:%.0f', tokens, number)
        end
    end

    -- Writes the changed fields, at the end of the call. Returns the first error of reading or writing, or
    -- nil. The time to live is set once an hour, to save a command in each call; `kept` has the time.
    local function write()
        for key, holds in pairs(known) do
            if not holds.broken and next(holds.changed) then
                local fields, gone = {}, {}
                local again = holds.now < holds.kept or holds.now >= holds.kept + KEPT_AGAIN
                if again then
                    set(holds, 'kept', holds.now)
                end
                for field, text in pairs(holds.changed) do
                    if text then
                        fields[#fields + 1] = field
                        fields[#fields + 1] = text
                    else
                        gone[#gone + 1] = field
                    end
                end
                if #gone > 0 then
                    ask('HDEL', key, unpack(gone))
                end
                if #fields > 0 then
                    ask('HSET', key, unpack(fields))
                end
                if again then
                    ask('EXPIRE', key, KEPT)
                end
            end
        end
        return failure
    end

    local function came_back(key, mark, now)
        local before = ask('ZSCORE', key .. ':ids', mark)
        return before and tonumber(before) > now - REMEMBERED
    end

    local function remember(key, mark, now)
        local ids = key .. ':ids'
        -- Never before the others: after a step back of the clock, the newest id would be removed
        -- first.
        local newest = ask('ZREVRANGE', ids, 0, 0, 'WITHSCORES')
        ask('ZADD', ids, max(now, tonumber(newest and newest[2] or now)), mark)
        ask('ZREMRANGEBYSCORE', ids, '-inf', now - REMEMBERED)
        ask('ZREMRANGEBYRANK', ids, 0, -MOST_IDS - 1)
        ask('EXPIRE', ids, REMEMBERED)
    end

    -- Forgets the ids whose charge or refund no counter of their bucket has counted: `results` has texts for
    -- these. Their callers get an error, and may send them again.
    local function forget_uncounted(results)
        for _, new in ipairs(new_ids) do
            local counters, counted = 0, 0
            for i = new.first, new.last do
                if string.sub(KEYS[i], 1, #new.bucket) == new.bucket and KEYS[i] ~= new.key then
                    counters = counters + 1
                    counted = counted + (type(results[i]) == 'number' and 1 or 0)
                end
            end
            if counters > 0 and counted == 0 then
                ask('ZADD', new.key .. ':ids', 0, new.mark)  -- as if it had come back long ago
            end
        end
    end

    local function held_in(holds, now)
        local sum = 0
        for expiry, slot in pairs(holds.slots) do
            if expiry > now then
                sum = sum + slot[1]
            end
        end
        return min(sum, MOST_HELD)
    end

    local function delay_of(holds)
        if holds.flight == 0 then
            return FIRST_DELAY
        end
        return max(1, min(LONGEST_DELAY, math.ceil(holds.flight / 2)))
    end

    local function expire(holds, now)
        local expired = 0
        for expiry, slot in pairs(holds.slots) do
            if expiry <= now then
                expired = expired + slot[2]
                set_slot(holds, expiry, 0, 0)
            end
        end
        if expired > 0 then
            set(holds, 'share', holds.share * (1 - LEARN) ^ expired)
        end
        return expired
    end

    local function tokens_of(holds, hit, share)
        local tokens = hit.fixed
        if tokens == 0 then
            tokens = hit.otherwise
            if holds.charges > 0 then
                local variance = max(0, holds.square - holds.mean * holds.mean)
                tokens = holds.mean + hit.deviations * math.sqrt(variance)
            end
        end
        return floor(min(tokens, hit.most, MOST) * share + 0.5)
    end

    -- Adds `times` holds of `tokens` in all. One that ends with its window does not count (Holds._take).
    local function hold(holds, hit, tokens, times)
        local slot = holds.slots[hit.expiry] or {0, 0}
        local whole = hit.expiry > hit.now + hit.life - max(1, floor(hit.life / 12))
        set_slot(holds, hit.expiry, slot[1] + tokens, slot[2] + (whole and times or 0))
    end

    local function take(holds, hit)
        local tokens = tokens_of(holds, hit, holds.share)
        if tokens > 0 then
            hold(holds, hit, tokens, 1)
        end
        return tokens
    end

    local function learn(holds, charge)
        local weight = max(LEARN, 1 / (holds.charges + 1))
        set(holds, 'mean', holds.mean + weight * (charge - holds.mean))
        set(holds, 'square', holds.square + weight * (charge * charge - holds.square))
        set(holds, 'charges', min(holds.charges + 1, MOST_KNOWN))
    end

    local function flew(holds, seconds)
        local weight = holds.flight == 0 and 1 or LEARN
        set(holds, 'flight', holds.flight + weight * (max(seconds, 1) - holds.flight))
    end

    local function release_oldest(holds, hit)
        local wanted = tokens_of(holds, hit, hit.part)
        local left, one = wanted, hit.part >= 0.5 and 1 or 0
        local expiries = {}
        for expiry in pairs(holds.slots) do
            expiries[#expiries + 1] = expiry
        end
        table.sort(expiries)
        for _, expiry in ipairs(expiries) do
            if left == 0 and one == 0 then
                break
            end
            local slot = holds.slots[expiry]
            local number = slot[2]
            if one == 1 and number > 0 then
                number = number - 1
                one = 0
                flew(holds, hit.now + hit.life - expiry)
            end
            local taken = min(left, slot[1])
            left = left - taken
            set_slot(holds, expiry, slot[1] - taken, number)
        end
        return wanted - left
    end

    local function release(holds, hit)
        flew(holds, hit.now - hit.made)
        local slot = holds.slots[hit.expiry]
        if not slot then
            return 0
        end
        local taken = min(hit.tokens, slot[1])
        set_slot(holds, hit.expiry, slot[1] - taken, max(0, slot[2] - 1))
        return taken
    end

    local function apply(holds, hit)
        local now = hit.now
        holds.now = now
        local expired = expire(holds, now)
        local tokens
        if hit.op == TAKE then
            tokens = take(holds, hit)
        elseif hit.op == REFUND then
            remember(hit.key, 'n' .. hit.id, now)
            tokens = 0
        else
            set(holds, 'share', holds.share + LEARN * (1 - holds.share))
            if hit.op == CHARGE then
                learn(holds, hit.charge)
                if hit.id == '' then
                    tokens = release_oldest(holds, hit)
                else
                    remember(hit.key, 'c' .. hit.id, now)
                end
            elseif hit.id == '' and hit.tokens == 0 then
                set(holds, 'marked', 1)
                if holds.refusals > 0 and now <= holds.refused_at + REFUSAL then
                    set(holds, 'refusals', holds.refusals - 1)
                    tokens = 0
                else
                    tokens = release_oldest(holds, hit)
                end
            end
            if not tokens then
                if hit.tokens == 0 or (hit.id ~= '' and came_back(hit.key, 'r' .. hit.id, now)) then
                    tokens = 0
                else
                    if hit.id ~= '' then
                        remember(hit.key, 'r' .. hit.id, now)
                    end
                    tokens = release(holds, hit)
                end
            end
        end
        return min(expired, MOST_EXPIRED) * EXPIRED + tokens
    end

    -- Returns the result of a check that is refused because `tokens` are held.
    local function refused_by(holds, tokens)
        return -1 - (min(tokens, MOST_HELD) * DELAYS + delay_of(holds))
    end

    -- Notes that `times` checks are refused: their gateway may report these ends, which end no hold.
    local function refuse(holds, hit, times)
        holds.now = hit.now
        if holds.marked > 0 then
            set(holds, 'refusals', hit.now <= holds.refused_at + REFUSAL and holds.refusals + times or times)
            set(holds, 'refused_at', hit.now)
        end
    end

    -- Applies several equal checks, of which the first passes. Returns its result, how many pass, and the
    -- results of the others that pass and of those that do not, because those before them hold too much.
    local function take_all(holds, hit)
        local result = apply(holds, hit)
        local tokens, passed = result % EXPIRED, hit.times
        if tokens > 0 then
            if hit.left > 0 then
                passed = min(passed, math.ceil((hit.left - hit.held) / tokens))
            end
            hold(holds, hit, tokens * (passed - 1), passed - 1)
        end
        if passed == hit.times then
            return {result, passed, tokens, 0}
        end
        refuse(holds, hit, hit.times - passed)
        return {result, passed, tokens, refused_by(holds, hit.held + tokens * passed)}
    end

    -- Returns the hit on holds whose fields are at ARGV[at]. It stands for `times` equal checks.
    local function parse(key, at)
        return {
            key = key, op = tonumber(ARGV[at]), now = tonumber(ARGV[at + 1]), life = tonumber(ARGV[at + 2]),
            expiry = tonumber(ARGV[at + 3]), fixed = tonumber(ARGV[at + 4]),
            deviations = tonumber(ARGV[at + 5]), otherwise = tonumber(ARGV[at + 6]),
            most = tonumber(ARGV[at + 7]), charge = tonumber(ARGV[at + 8]),
            tokens = tonumber(ARGV[at + 9]), made = tonumber(ARGV[at + 10]), id = ARGV[at + 11],
            part = tonumber(ARGV[at + 12]), times = tonumber(ARGV[at + 13]),
        }
    end

    -- Applies the hits on holds of a group, which begins with `first` and has `size` hits: `hits` has them,
    -- `before` and `limits` have the values and limits of its counters, each by its place in the group. Marks
    -- charges that were counted before in `held`, and puts the results into `results`. Returns whether the
    -- group is refused.
    local function apply_group(hits, first, size, before, limits, refused, held, results)
        for place = 0, size - 1 do
            local hit = hits[place]
            local bucket = hit and string.sub(hit.key, 1, -5)  -- without "held"
            local function is_own(i)
                return not hits[i] and string.sub(KEYS[first + i], 1, #bucket) == bucket
            end
            if hit and (hit.op == CHARGE or hit.op == REFUND) then
                local mark = hit.op == CHARGE and 'c' or 'n'
                if hit.id ~= '' and came_back(hit.key, mark .. hit.id, hit.now) then
                    results[first + place] = 0
                    for i = 0, size - 1 do
                        held[first + i] = held[first + i] or is_own(i)
                    end
                elseif hit.id ~= '' then
                    new_ids[#new_ids + 1] = {
                        key = hit.key, bucket = bucket, mark = mark .. hit.id,
                        first = first, last = first + size - 1,
                    }
                end
            elseif hit and hit.op == TAKE then
                local holds = holds_of(hit.key)
                local tokens, left = held_in(holds, hit.now), math.huge
                for i = 0, size - 1 do
                    if is_own(i) and before[i] then
                        left = min(left, limits[i] - before[i])
                    end
                end
                hit.held, hit.left = tokens, left
                if left > 0 and tokens >= left then
                    results[first + place] = refused_by(holds, tokens)
                    refused = true
                end
            end
        end
        for place = 0, size - 1 do
            local hit = hits[place]
            if hit and hit.op == TAKE and refused then
                local result = results[first + place] or 0
                refuse(holds_of(hit.key), hit, hit.times)
                results[first + place] = hit.times > 1 and {result, 0, 0, result} or result
            elseif hit and not results[first + place] then
                local all = hit.times > 1 and take_all or apply
                results[first + place] = all(holds_of(hit.key), hit)
            end
        end
        return refused
    end

    return {parse = parse, apply_group = apply_group, forget_uncounted = forget_uncounted, write = write}
end

