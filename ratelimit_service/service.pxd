"""Types that are known where this module is compiled: reads of their fields are reads of C structures."""

from ratelimit_service.core.decision cimport decide
from ratelimit_service.core.model cimport Decision
from ratelimit_service.core.plan cimport Plan
