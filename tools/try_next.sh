# What to try once `make run` serves.
cat <<'END'
Serving the budgets in config/: gRPC on 8081, HTTP on 8080, metrics on 9090, debug on 127.0.0.1:6070. Ctrl-C ends it.
In another terminal:
    # Team dba asks, before a request, whether anything is left (0 hits count nothing), and is charged 40 tokens after it:
    .venv/bin/ratelimit-service ask token-budgets team=dba --hits 0
    .venv/bin/ratelimit-service ask token-budgets team=dba --hits 40
    # The same over HTTP, and what the metrics say then:
    curl -s localhost:8080/json -d '{"domain":"token-budgets","descriptors":[{"entries":[{"key":"team","value":"dba"}]}]}'
    curl -s localhost:9090/metrics | grep token-budgets

END
