"""`ratelimit-service compare`: two services answer the same requests, and every difference is given its
reason.
"""
