"""The commands of the command line, with their options and help.

A command imports what it needs when it runs: gRPC, HTTP and Redis take a third of a second to import.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..core.errors import InvalidRequest
from .arguments import (
    add_answers,
    add_domain,
    add_manifests,
    add_tls,
    manifest_domain,
    merges,
    number,
    seconds,
)
from .command import Command
from .operating.arguments import EXIT_CODES, LONG, add_server
from .operating.change_options import change
from .operating.options import COMMANDS as OPERATING

_MOST_HITS = 2**64 - 1
"""The largest number in the protocol."""


# serve


_OVERRIDES = {
    "store": ("BACKEND_TYPE", "memory or redis"),
    "redis-url": ("REDIS_URL", "host:port, redis:// or unix://"),
    "grpc-port": ("GRPC_PORT", "the port of ShouldRateLimit"),
    "port": ("PORT", "the port of /healthcheck and /json"),
    "log-level": ("LOG_LEVEL", "debug, info, warn or error"),
    "log-format": ("LOG_FORMAT", "text or json"),
}
"""Options that stand for one variable each; the variables are read, and their values checked, by
load_settings."""


def _serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        action="append",
        metavar="PATH",
        help="a configuration file, or a directory of them; may be repeated (CONFIG_PATH)",
    )
    for option, (variable, meaning) in _OVERRIDES.items():
        parser.add_argument(f"--{option}", dest=variable, metavar="VALUE", help=f"{meaning} ({variable})")


def _serve(given: argparse.Namespace) -> int:
    from . import serving

    options = {variable: getattr(given, variable) for variable, _ in _OVERRIDES.values()}
    options["CONFIG_PATH"] = ",".join(given.config) if given.config else None
    overrides = {name: value for name, value in options.items() if value is not None}
    serving.serve(os.environ, overrides, ignored=given.unknown)
    return 0


# check-config and convert


def _check_config_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a file, a manifest, or a directory of them"
    )
    parser.add_argument("--strict", action="store_true", help="treat warnings as errors")
    parser.add_argument(
        "--receivers",
        metavar="FILE",
        default=os.environ.get("EVENTS_WEBHOOKS", ""),
        help="check this file of receivers, and that it has each receiver that a rule names in `notify` "
        "(default: EVENTS_WEBHOOKS)",
    )
    add_manifests(parser)


def _check_config(given: argparse.Namespace) -> int:
    from . import checking

    return checking.check_config(
        given.paths,
        strict=given.strict,
        merge_domains=merges(given),
        domain=manifest_domain(given),
        receivers=given.receivers,
    )


def _convert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help="a file, a manifest, or a directory of them")
    add_manifests(parser)


def _convert(given: argparse.Namespace) -> int:
    from . import checking

    return checking.convert(given.path, merge_domains=merges(given), domain=manifest_domain(given))


# ask


def _ask_options(parser: argparse.ArgumentParser) -> None:
    add_domain(parser)
    parser.add_argument(
        "descriptors",
        nargs="+",
        metavar="DESCRIPTOR",
        help=r"key=value,key=value; within a value, write \, for a comma and \\ for a backslash. "
        "Several are one request",
    )
    parser.add_argument(
        "--hits",
        type=number(-_MOST_HITS, _MOST_HITS),
        default=0,
        metavar="N",
        help="0 checks (default), more than 0 charges, less than 0 refunds",
    )
    parser.add_argument(
        "--server",
        default="127.0.0.1:8081",
        metavar="HOST:PORT",
        help="the gRPC port of the service (default: %(default)s)",
    )
    parser.add_argument("--tls", action="store_true", help="use TLS; implied by the next three")
    add_tls(parser)
    add_answers(parser)


def _ask(given: argparse.Namespace) -> int:
    from .ask import Tls, ask

    secure = given.tls or given.ca or given.cert or given.key
    return ask(
        given.server,
        given.domain,
        given.descriptors,
        given.hits,
        as_json=given.json,
        timeout=given.timeout,
        tls=Tls(given.ca, given.cert, given.key) if secure else None,
    )


# compare


def _compare_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--theirs", required=True, metavar="HOST:PORT", help="the gRPC port of the present service")
    add("--ours", required=True, metavar="HOST:PORT", help="the gRPC port of the service to replace it")
    add(
        "--replay",
        type=Path,
        metavar="FILE",
        help="replay a decision log, or an access log of Envoy with `ratelimit` in each line; - is stdin",
    )
    add(
        "--rules",
        type=Path,
        action="append",
        metavar="PATH",
        help="generate requests for the rules in a file or a directory; may be repeated",
    )
    add(
        "--requests",
        type=number(1, 2**63),
        metavar="N",
        help="replay or generate at most N (default: all that are recorded, or 1000 generated)",
    )
    add(
        "--seed",
        type=number(0, 2**63),
        default=1,
        metavar="N",
        help="generate the requests of this seed (default: %(default)d)",
    )
    add("--checks-only", action="store_true", help="charge nothing: send every request with 0 hits")
    add("--mirror", action="store_true", help="pass calls on to theirs, and compare its answers with ours")
    add(
        "--listen",
        default="0.0.0.0:8081",
        metavar="HOST:PORT",
        help="where --mirror listens (default: %(default)s)",
    )
    add("--listen-cert", type=Path, metavar="FILE", help="its certificate; without one it uses no TLS")
    add("--listen-key", type=Path, metavar="FILE", help="the key of --listen-cert")
    add(
        "--every",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="the time between summaries of --mirror (default: %(default)g)",
    )
    add("--theirs-tls", action="store_true", help="use TLS with theirs")
    add("--ours-tls", action="store_true", help="use TLS with ours")
    add_tls(parser)
    add(
        "--show",
        type=number(0, 2**63),
        default=20,
        metavar="N",
        help="show at most N of each kind of difference (default: %(default)d)",
    )
    add("--show-all", action="store_true", help="also show differences that have a known reason")
    add("--strict", action="store_true", help="exit with 3 if there is any difference")
    add_answers(parser)


def _compare(given: argparse.Namespace) -> int:
    from . import compare
    from .ask import Tls
    from .comparison.report import Report

    tls = Tls(given.ca, given.cert, given.key)
    services = compare.Services(
        given.theirs,
        given.ours,
        tls if given.theirs_tls else None,
        tls if given.ours_tls else None,
        given.timeout,
    )
    report = Report(as_json=given.json, most=given.show, everything=given.show_all or given.strict)
    if given.mirror:
        if given.replay or given.rules:
            raise InvalidRequest("--mirror compares what callers send: leave out --replay and --rules")
        return compare.compare_mirrored(
            services,
            report,
            given.listen,
            listen_tls=(given.listen_cert, given.listen_key),
            every=given.every,
            notify=lambda line: print(line, file=sys.stderr, flush=True),
            strict=given.strict,
        )
    compare.compare_replayed(
        services,
        report,
        recorded=given.replay,
        rules=given.rules or (),
        many=given.requests,
        seed=given.seed,
        checks_only=given.checks_only,
    )
    report.finish()
    return compare.exit_code(report, strict=given.strict)


# reset


def _reset_options(parser: argparse.ArgumentParser) -> None:
    add_domain(parser)
    parser.add_argument("descriptor", metavar="DESCRIPTOR", help="key=value,key=value, as for ask")
    parser.add_argument(
        "--window",
        action="append",
        default=[],
        metavar="WINDOW",
        help="only this window, such as hour or 15minute; may be repeated",
    )
    parser.add_argument(
        "--spare",
        action="append",
        default=[],
        metavar="WINDOW",
        help="every window but this one; may be repeated",
    )
    parser.add_argument("--author", default="", help="the author, for the audit (default: the user)")
    parser.add_argument("--reason", default="", help="why, for the audit")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be deleted")
    parser.add_argument(
        "--yes", action="store_true", help="with --server: do not ask before several are reset"
    )
    add_server(parser, LONG)


def _reset(given: argparse.Namespace) -> int:
    import asyncio

    from . import reset

    which = reset.windows(given.window, given.spare)
    if given.server is not None:
        return _reset_over_api(given)
    if given.json:
        raise InvalidRequest("--json needs --server")
    asyncio.run(
        reset.reset(
            os.environ,
            given.domain,
            given.descriptor,
            which,
            author=given.author,
            reason=given.reason,
            dry_run=given.dry_run,
        )
    )
    return 0


def _reset_over_api(given: argparse.Namespace) -> int:
    """Reset a bucket of a running service, whichever store it has."""
    if given.spare:
        raise InvalidRequest("--spare does not go with --server: give each --window that is to be reset")
    given.reason = given.reason or "the command reset"
    for window in given.window or [None]:
        code = change(given, "/reset", domain=given.domain, descriptor=given.descriptor, window=window)
        if code:
            return code
    return 0


# completion


def _completion_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")


def _completion(given: argparse.Namespace) -> int:
    from .completion import script

    parsers = {}
    for command in COMMANDS:
        parsers[command.name] = argparse.ArgumentParser(allow_abbrev=False)
        command.options(parsers[command.name])
    summaries = {command.name: command.summary for command in COMMANDS}
    sys.stdout.write(script(given.shell, parsers, summaries))
    return 0


COMMANDS = (
    Command(
        "serve",
        "serve until SIGTERM",
        "Environment variables configure it (docs/settings.md); an option here overrides its variable. "
        "Other arguments, such as those of envoyproxy/ratelimit's binary, are ignored with a warning.",
        _serve_options,
        _serve,
        ignores_unknown=True,
    ),
    Command(
        "check-config",
        "load configuration files as the service does, and print every mistake",
        "Exits with 1 if there is one.",
        _check_config_options,
        _check_config,
    ),
    Command(
        "convert",
        "print the rules of a manifest (ConfigMap, RateLimitConfig) as configuration files",
        "Several files are printed as several YAML documents: put each into a file of its own.",
        _convert_options,
        _convert,
    ),
    Command(
        "ask",
        "send a request to a running service, as a gateway does, and explain the answer",
        "Exits with 0 for OK, 3 for OVER_LIMIT, 1 if there is no answer.",
        _ask_options,
        _ask,
    ),
    Command(
        "compare",
        "send the same requests to two services, and report every difference with its reason",
        "Replayed requests are charged, unless with --checks-only, so give each service a store of its own. "
        "Exits with 0 if all differences have a reason (docs/compatibility.md), 3 if one has none, "
        "1 if it could not compare, 2 for a wrong option.",
        _compare_options,
        _compare,
    ),
    Command(
        "reset",
        "delete the counters of a bucket, and print their last values",
        "The environment variables of the service select the store. With --server, "
        f"it is the store of a running service, also if it is in memory. {EXIT_CODES}.",
        _reset_options,
        _reset,
    ),
    *OPERATING,
    Command(
        "completion",
        "print a script that completes commands and options in a shell",
        "In bash: source <(ratelimit-service completion bash).",
        _completion_options,
        _completion,
    ),
)
