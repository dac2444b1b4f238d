"""Types that are known where this module is compiled: reads of their fields are reads of C structures."""

cimport cython

from ratelimit_service.core.hit cimport Hit
from ratelimit_service.core.holds.planning cimport PlannedHold
from ratelimit_service.core.model cimport Decision
from ratelimit_service.core.plan cimport Plan, PlannedDescriptor, PlannedWindow


@cython.locals(planned=PlannedDescriptor, index=Py_ssize_t, over=bint)
cpdef Decision decide(policy, Plan plan, counts, refusals=*)

cdef object _unlimited_status(PlannedDescriptor planned)

@cython.locals(each=PlannedHold)
cdef object _refuse_in_flight(Plan plan, list statuses, counts)

# All numbers are below 2^54: limits, counters and hits saturate at COUNTER_MAX.
@cython.locals(
    window=PlannedWindow,
    shown_window=PlannedWindow,
    hit=Hit,
    before=cython.longlong,
    after=cython.longlong,
    amount=cython.longlong,
    near=cython.longlong,
    shown_before=cython.longlong,
    shown_after=cython.longlong,
    near_hits=cython.longlong,
    over_hits=cython.longlong,
    remaining=cython.longlong,
    budget=bint,
    shadow=bint,
    over=bint,
    shown_over=bint,
)
cdef bint _judge(
    PlannedDescriptor planned,
    long long addend,
    hits,
    counts,
    long long now,
    list statuses,
    list tallies,
) except -1
