# Print what to try while `make run` serves, at the ports that the environment chooses.
grpc=${GRPC_PORT:-8081} http=${PORT:-8080} debug=${DEBUG_PORT:-6070} metrics=${PROMETHEUS_ADDR:-:9090}
metrics=${metrics##*:}
# The commands call the default ports; --server names others.
asked='' seen=''
if [ "$grpc" != 8081 ]; then asked=" --server localhost:$grpc"; fi
if [ "$debug" != 6070 ]; then seen=" --server localhost:$debug"; fi
cat <<TEXT
Serving the budgets in config/: gRPC on $grpc, HTTP on $http, metrics on $metrics, debug on 127.0.0.1:$debug. Ctrl-C ends it.
Changing limits while it serves needs a token: ADMIN_TOKEN=at-least-16-characters make run, and RATELIMIT_TOKEN with the same.
In another terminal:
    # Check the budget of team dba before a request (0 hits), and charge 40 tokens after it:
    .venv/bin/ratelimit-service ask token-budgets team=dba --hits 0$asked
    .venv/bin/ratelimit-service ask token-budgets team=dba --hits 40$asked
    # What is used of each budget, and why a call would be refused; http://localhost:$debug/ shows it in a browser:
    .venv/bin/ratelimit-service budgets$seen
    .venv/bin/ratelimit-service explain token-budgets team=dba$seen
    # A request over HTTP, and the metrics:
    curl -s localhost:$http/json -d '{"domain":"token-budgets","descriptors":[{"entries":[{"key":"team","value":"dba"}]}]}'
    curl -s localhost:$metrics/metrics | grep token-budgets

TEXT
