"""The command line: `ratelimit-service serve`, and what goes with it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import RateLimitServiceError

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
