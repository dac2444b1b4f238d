-- The end of the script (hit.lua): writes the entries of ledgers, and returns the results.

if runs and not replayed then
    local MINUS = 45  -- the byte of '-'

    -- Adds `amount`, a text, to an entry.
    local function record(book, entry, amount, life)
        if amount == '0' then
            return
        end
        local after = pcall('HINCRBY', book, entry, amount)
        if type(after) == 'table' then
            failure, failures = after.err, failures + 1
        elseif after == tonumber(amount) then  -- the entry is new, and so may be the book
            if pcall('TTL', book) == -1 then
                pcall('EXPIRE', book, life)
            end
        end
    end

    local at = run
    for _ = 1, runs do
        local form, entry, life, size = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
        local step = form == CHARGED_AS_HIT and 1 or 2
        local charged, last = entry .. ':charged', at + 3 + step * size
        for i = at + 4, last, step do
            local place = tonumber(ARGV[i])
            local before, amount = counts[place], step == 1 and amounts[place] or ARGV[i + 1]
            if form == REFUSED then
                record(KEYS[place], entry .. ':refused', amount, life)
            else
                book = book + 1
                if type(before) == 'number' and before >= 0 then  -- otherwise the hit was not counted
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
        counts[hits + 1], counts[hits + 2], counts[hits + 3] = counts[hits + 1] or '', failure, failures
    end
end
return counts
