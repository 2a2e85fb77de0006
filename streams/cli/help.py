"""How the command line presents itself: its commands by what they are for, and its options."""

import click

#: What isn't named here is listed last.
SECTIONS = {
    "Try it": ("demo", "up"),
    "Use it": ("publish", "delete", "search"),
    "Run it": ("ingest", "query", "web"),
    "Look after it": ("index", "reindex", "dlq", "topics", "doctor", "config", "completion"),
}


class Sectioned(click.Group):
    """Lists its commands under headings."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the headings that have commands, and these."""
        named = {name for names in SECTIONS.values() for name in names}
        others = tuple(name for name in self.list_commands(ctx) if name not in named)
        width = max(map(len, self.commands))
        for heading, names in (*SECTIONS.items(), ("Other", others)):
            rows = [
                (name.ljust(width), self.commands[name].get_short_help_str(limit=80))
                for name in names
                if name in self.commands
            ]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


def _hush(_: click.Context, __: click.Parameter, quiet: bool) -> None:
    if quiet:
        from pixtide.streams import terminal

        terminal.hush()


quiet_option = click.option(
    "-q",
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=_hush,
    help="No progress and no news: only what goes wrong.",
)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete pixtide's commands and options.

    \b
    In ~/.bashrc or ~/.zshrc:        eval "$(pixtide completion bash)"   (or zsh)
    In ~/.config/fish/config.fish:   pixtide completion fish | source
    """
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    kinds = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
    root = click.get_current_context().find_root().command
    click.echo(kinds[shell](root, {}, "pixtide", "_PIXTIDE_COMPLETE").source())
