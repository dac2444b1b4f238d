"""Types that are known where this module is compiled: reads of their fields are reads of C structures."""

from ratelimit_service.core.plan cimport Plan, PlannedDescriptor
from ratelimit_service.core.prepared cimport LimitedDescriptor, PreparedRequest
