# Print what to try while `make run` serves.
cat <<'END'
Serving the budgets in config/: gRPC on 8081, HTTP on 8080, metrics on 9090, debug on 127.0.0.1:6070. Ctrl-C ends it.
Changing limits while it serves needs a token: ADMIN_TOKEN=at-least-16-characters make run, and RATELIMIT_TOKEN with the same.
In another terminal:
    # Check the budget of team dba before a request (0 hits), and charge 40 tokens after it:
    .venv/bin/ratelimit-service ask token-budgets team=dba --hits 0
    .venv/bin/ratelimit-service ask token-budgets team=dba --hits 40
    # What is used of each budget, and why a call would be refused; http://localhost:6070/ shows it in a browser:
    .venv/bin/ratelimit-service budgets
    .venv/bin/ratelimit-service explain token-budgets team=dba
    # A request over HTTP, and the metrics:
    curl -s localhost:8080/json -d '{"domain":"token-budgets","descriptors":[{"entries":[{"key":"team","value":"dba"}]}]}'
    curl -s localhost:9090/metrics | grep token-budgets

END
