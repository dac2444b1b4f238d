"""The command line: `ratelimit-service serve`, and what goes with it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import InvalidRequest, RateLimitServiceError

app = typer.Typer(
    name="ratelimit-service",
    help="A global rate-limit service for Envoy and agentgateway that knows what a token budget is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _utf8(text: str) -> str:
    """`text`, which the shell may have made of any bytes, where it is UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("is not UTF-8") from None
    return text


Domain = Annotated[
    str, typer.Argument(help="The domain, as in the configuration: token-budgets", callback=_utf8)
]
Descriptor = Annotated[
    str, typer.Argument(help="key=value,key=value; in a value, a comma is written \\, and a backslash \\\\.")
]

MergeDomains = Annotated[
    bool,
    typer.Option("--merge-domains", help="Several files may be of one domain.", envvar="MERGE_DOMAIN_CONFIG"),
]
ManifestDomain = Annotated[
    str,
    typer.Option(
        "--domain", help="The domain of RateLimitConfig manifests, which name none.", envvar="MANIFEST_DOMAIN"
    ),
]

_MOST_HITS = 2**64 - 1
"""What the protocol has room for."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    config: Annotated[
        list[str] | None,
        typer.Option(help="A configuration file, or a directory of them; may be repeated (CONFIG_PATH)."),
    ] = None,
    store: Annotated[str | None, typer.Option(help="memory or redis (BACKEND_TYPE).")] = None,
    redis_url: Annotated[str | None, typer.Option(help="host:port, redis:// or unix:// (REDIS_URL).")] = None,
    grpc_port: Annotated[str | None, typer.Option(help="The port of ShouldRateLimit (GRPC_PORT).")] = None,
    port: Annotated[str | None, typer.Option(help="The port of /healthcheck and /json (PORT).")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warn or error (LOG_LEVEL).")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json (LOG_FORMAT).")] = None,
) -> None:
    """Serve until SIGTERM. Everything can be set by environment variables, over which the options here win.

    docs/settings.md lists them. Arguments of envoyproxy/ratelimit's binary are accepted and ignored, as it ignores them.
    """
    from . import commands

    # Options are read here and not by typer, which would read them in other ways than load_settings.
    options = {
        "CONFIG_PATH": ",".join(config) if config else None,
        "BACKEND_TYPE": store,
        "REDIS_URL": redis_url,
        "GRPC_PORT": grpc_port,
        "PORT": port,
        "LOG_LEVEL": log_level,
        "LOG_FORMAT": log_format,
    }
    given = {name: value for name, value in options.items() if value is not None}
    commands.serve(os.environ, given, ignored=context.args)


@app.command("check-config")
def check_config(
    paths: Annotated[list[Path], typer.Argument(help="Files and manifests, or directories of them in YAML.")],
    strict: Annotated[bool, typer.Option("--strict", help="Take warnings for errors.")] = False,
    merge_domains: MergeDomains = False,
    domain: ManifestDomain = "",
) -> None:
    """Load configuration files as the service would, and say all that is wrong with them. Exits with 1 if anything is."""
    from . import commands

    raise typer.Exit(commands.check_config(paths, strict=strict, merge_domains=merge_domains, domain=domain))


@app.command()
def convert(
    path: Annotated[Path, typer.Argument(help="A file or a manifest, or a directory of them in YAML.")],
    merge_domains: MergeDomains = False,
    domain: ManifestDomain = "",
) -> None:
    """Print the rules in a manifest (ConfigMap, RateLimitConfig) as the configuration file that says the same.

    Where there are several, they are several YAML documents: each belongs into a file of its own.
    """
    from . import commands

    raise typer.Exit(commands.convert(path, merge_domains=merge_domains, domain=domain))


@app.command()
def ask(
    domain: Domain,
    descriptors: Annotated[
        list[str], typer.Argument(help="key=value,key=value; several are asked about together.")
    ],
    hits: Annotated[
        int,
        typer.Option(
            help="0 only asks; more is charged; less is given back.", min=-_MOST_HITS, max=_MOST_HITS
        ),
    ] = 0,
    server: Annotated[str, typer.Option(help="The gRPC port of a running service.")] = "127.0.0.1:8081",
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS; so do the three options below.")] = False,
    ca: Annotated[Path | None, typer.Option(help="The CA that signed the server's certificate.")] = None,
    cert: Annotated[Path | None, typer.Option(help="A certificate to show to the server, in PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 5.0,
) -> None:
    """Ask a running service, as a gateway would. Exits with 0 for OK, 3 for OVER_LIMIT, 1 where it could not be asked."""
    from . import ask as asking

    try:
        secure = asking.Tls(ca, cert, key) if tls or ca or cert or key else None
        code = asking.ask(server, domain, descriptors, hits, as_json=as_json, timeout=timeout, tls=secure)
    except RateLimitServiceError as error:
        typer.echo(str(error), err=True)
        code = 1
    raise typer.Exit(code)


@app.command()
def compare(
    theirs: Annotated[str, typer.Option(help="The gRPC port of the service that is there: HOST:PORT.")],
    ours: Annotated[str, typer.Option(help="The gRPC port of the one that shall take its place.")],
    replay: Annotated[
        Path | None,
        typer.Option(
            help="A decision log, or an access log of Envoy with `ratelimit` in each line; - for stdin."
        ),
    ] = None,
    rules: Annotated[
        list[Path] | None, typer.Option(help="Make up requests for the rules in a file or a directory.")
    ] = None,
    requests: Annotated[int | None, typer.Option(help="At most so many; 1000 are made up.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Makes up the same requests again.", min=0)] = 1,
    checks_only: Annotated[
        bool, typer.Option("--checks-only", help="Charge nothing: every request asks with 0 hits.")
    ] = False,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Answer callers as theirs does, and compare with ours beside it.")
    ] = False,
    listen: Annotated[str, typer.Option(help="Where --mirror listens.")] = "0.0.0.0:8081",
    listen_cert: Annotated[
        Path | None, typer.Option(help="Its certificate; without one it speaks no TLS.")
    ] = None,
    listen_key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    every: Annotated[float, typer.Option(help="Seconds between the summaries of --mirror.", min=0.1)] = 60.0,
    theirs_tls: Annotated[bool, typer.Option("--theirs-tls", help="Speak TLS to theirs.")] = False,
    ours_tls: Annotated[bool, typer.Option("--ours-tls", help="Speak TLS to ours.")] = False,
    ca: Annotated[Path | None, typer.Option(help="The CA that signed their certificates.")] = None,
    cert: Annotated[Path | None, typer.Option(help="A certificate to show to them, in PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    show: Annotated[int, typer.Option(help="Of each kind of difference, at most so many.", min=0)] = 20,
    show_all: Annotated[
        bool, typer.Option("--show-all", help="Also differences that have a known reason.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 where anything differs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print lines of JSON.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.")] = 5.0,
) -> None:
    """Ask two services the same, and report every difference with its reason.

    What is replayed is charged, unless with --checks-only: give both a store of their own. Exits with 0 where all differences have
    a reason (docs/compatibility.md), 3 where one has none, 1 where it could not compare, 2 for a wrong option.
    """
    from . import compare as comparing
    from .ask import Tls
    from .comparison.report import Report

    tls = Tls(ca, cert, key)
    services = comparing.Services(
        theirs, ours, tls if theirs_tls else None, tls if ours_tls else None, timeout
    )
    report = Report(as_json=as_json, most=show, everything=show_all or strict)
    try:
        if mirror:
            if replay or rules:
                raise InvalidRequest("--mirror compares what callers send: leave out --replay and --rules")
            comparing.compare_mirrored(
                services,
                report,
                listen,
                listen_tls=(listen_cert, listen_key),
                every=every,
                tell=lambda line: typer.echo(line, err=True),
            )
        else:
            comparing.compare_replayed(
                services,
                report,
                recorded=replay,
                rules=rules or (),
                many=requests,
                seed=seed,
                checks_only=checks_only,
            )
    except RateLimitServiceError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    report.finish()
    raise typer.Exit(comparing.DIFFERENT if report.differs(strict=strict) else 0)


@app.command()
def reset(
    domain: Domain,
    descriptor: Descriptor,
    window: Annotated[
        list[str] | None,
        typer.Option(help="Only this window: hour, 15minute; may be repeated.", metavar="WINDOW"),
    ] = None,
    spare: Annotated[
        list[str] | None,
        typer.Option(help="All windows but this one; may be repeated.", metavar="WINDOW"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
) -> None:
    """Delete the counters of a bucket from the store that the environment's settings name, and say what they held."""
    from . import reset as command

    try:
        which = command.windows(window or (), spare or ())
        asyncio.run(command.reset(os.environ, domain, descriptor, which, dry_run=dry_run))
    except RateLimitServiceError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
