"""Hours behind a real Envoy, with faults: are the books exact, is the memory flat, is every error explained?"""
