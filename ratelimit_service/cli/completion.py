"""The command `completion`: prints a script that completes commands and options in a shell.

It is made from the parsers, so it has every option that there is.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

_BASH = """\
_ratelimit_service() {
    local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} before=${COMP_WORDS[COMP_CWORD-1]} words=
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="%(commands)s"
    else
        case "$command $before" in
%(choices)s
        esac
        if [ -z "$words" ]; then
            case "$command" in
%(options)s
            esac
        fi
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    if [ ${#COMPREPLY[@]} -eq 0 ]; then
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}
complete -o filenames -F _ratelimit_service ratelimit-service
"""

_ZSH = "autoload -U +X bashcompinit && bashcompinit\n" + _BASH


def script(shell: str, parsers: Mapping[str, argparse.ArgumentParser], summaries: Mapping[str, str]) -> str:
    """Return the script for bash, zsh or fish."""
    if shell == "fish":
        return _fish(parsers, summaries)
    choices, options = [], []
    for name, parser in parsers.items():
        words: list[str] = []
        for action in _options(parser):
            words += action.option_strings
            if action.choices:
                flags = "|".join(f'"{name} {flag}"' for flag in action.option_strings)
                choices.append(f'        {flags}) words="{" ".join(map(str, action.choices))}" ;;')
        options.append(f'            {name}) words="{" ".join(words)}" ;;')
    parts = {"commands": " ".join(parsers), "choices": "\n".join(choices), "options": "\n".join(options)}
    return (_ZSH if shell == "zsh" else _BASH) % parts


def _fish(parsers: Mapping[str, argparse.ArgumentParser], summaries: Mapping[str, str]) -> str:
    before = "complete -c ratelimit-service -n"
    lines = [f"{before} __fish_use_subcommand -f -a {name} -d {_quoted(summaries[name])}" for name in parsers]
    for name, parser in parsers.items():
        for action in _options(parser):
            line = f"{before} '__fish_seen_subcommand_from {name}'"
            for flag in action.option_strings:
                line += f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}"
            if action.choices:
                line += f" -x -a '{' '.join(map(str, action.choices))}'"
            elif action.nargs != 0:
                line += " -r"
            lines.append(line)
    return "\n".join([*lines, ""])


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.option_strings]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
