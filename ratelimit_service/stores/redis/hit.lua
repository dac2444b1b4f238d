-- Applies a batch of hits, in one step and one round trip.
--
-- KEYS  the counter of each hit, in the order in which the hits are applied; the register of the lane; then
--       the book of each entry of a ledger, except those of refused requests, in the order of the entries
-- ARGV  the number of this batch, and the seconds for which Redis keeps the register;
--       for each hit: its amount, and unless that is 0, the time to live of a new key in seconds;
--       if there are entries of ledgers: the number of their runs, and for each run its form, its name in the
--       book, the time to live of a new book, the number of its entries, and for each entry the place of its
--       hit. In form 0, the amount of the entry is that of its hit; in the other forms it follows the place.
--       In form 2, the entry is of a refused request: its hit has no counter, and its key is the book;
--       then for each group of hits that may be held back: the place of its first hit, the number of its
--       hits, and for each hit its gate (1 refuses + 2 yields + 4 holds + 8 budget + 16 aside; see
--       core/gates.py) and its limit, then for a hit on holds (16) fourteen fields (holds.lua, parse);
--       last, unless the batch is plain: L and the number of books; T in place of L if a hit is neither a
--       charge nor a check, or may be held back, or is of a refused request. A plain batch has only charges
--       and checks.
--
--       A single charge has one argument: number, seconds, amount and time to live, with blanks between them.
--       Nearly all script calls to a Cluster have this form, and an argument costs a third of a command in a
--       script.
-- Returns for each hit the value of the counter before it; the bitwise complement of that value (-before - 1)
-- if the hit was held back; a text if it failed. A hit on holds has a result of its own (core/holds/hit.py),
-- or four if it stands for several equal checks (holds.lua, take_all).
-- Then a text if holds could not be read or written. If entries could not be written, that text can be empty,
-- and two more elements follow: the error, and the number of these entries. For a single charge, the result
-- is returned without a list.
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
--
-- The script is hit.lua, plain_ledger.lua, holds.lua, in_turn.lua and ledger.lua, in this order. This file
-- applies charges and checks, up to the first counter whose value is unusual; in_turn.lua applies all other
-- hits. This file defines no functions, and a plain batch ends in it: defining those of the other files would
-- take a tenth of the time of a single charge.

local KEYS, ARGV, pcall, tonumber, type = KEYS, ARGV, redis.pcall, tonumber, type
local find = string.find

local MAX = 9007199254740991  -- 2^53 - 1, the largest integer that is exact in Lua; counters saturate there
local DIGITS = 15  -- a number with at most so many digits is below MAX
local IN_TURN = 'T'

local single = not ARGV[2]
local number, lifetime, kind, books = ARGV[1], ARGV[2], nil, 0
local amount, ttl, _
if single then
    _, _, number, lifetime, amount, ttl = find(number, '^(%d*) (%d+) (%d+) (%d+)$')
else
    kind, books = string.match(ARGV[#ARGV], '^([LT])(%d+)$')
    books = books or 0
end
local hits = #KEYS - 1 - books

local replayed = false
if number ~= '' then
    local last = pcall('SET', KEYS[hits + 1], number, 'EX', lifetime, 'GET')
    if last == number then
        replayed = true
    elseif type(last) == 'table' then
        return last
    end
end

local in_order = not replayed and kind ~= IN_TURN  -- whether this file can apply the hits
if single then
    local key = KEYS[1]
    if in_order then
        local after = pcall('INCRBY', key, amount)
        if type(after) == 'table' then
            return after.err
        elseif after <= MAX then
            if pcall('TTL', key) == -1 then
                pcall('EXPIRE', key, ttl)
            end
            local before = after - amount
            return before < 0 and 0 or before
        end
        pcall('DECRBY', key, amount)
        in_order = false
    end
    ARGV = {number, lifetime, amount, ttl}
end

local counts, amounts = {}, kind and {}
local at, first = 3, 1  -- the place of the arguments of the next hit, and its number
local failed = false  -- whether a counter could not be written
local new = false  -- whether the last charge created its counter: then the next one probably does so, too
while in_order and first <= hits do
    local key, amount = KEYS[first], ARGV[at]
    if amounts then
        amounts[first] = amount
    end
    if amount == '0' then
        local value = pcall('GET', key)
        if not value then
            counts[first] = 0
        elseif type(value) == 'string' and #value <= DIGITS and find(value, '^%d+$') then
            counts[first] = tonumber(value)
        else
            break
        end
        at = at + 1
    else
        local ttl = ARGV[at + 1]
        local made = new and pcall('SET', key, amount, 'EX', ttl, 'NX')
        if made and made.ok then
            counts[first] = 0
        else
            local after = pcall('INCRBY', key, amount)
            if type(after) == 'table' then
                counts[first], failed = after.err, true
            elseif after <= MAX then
                if pcall('TTL', key) == -1 then
                    pcall('EXPIRE', key, ttl)
                end
                local before = after - amount
                counts[first] = before < 0 and 0 or before
                new = before == 0
            else
                pcall('DECRBY', key, amount)
                break
            end
        end
        at = at + 2
    end
    first = first + 1
end

if first > hits and not kind then
    return counts
end
