"""What each bucket was charged, hour by hour or day by day, long after its counters are gone."""
