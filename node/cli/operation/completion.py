"""`shoal completion`: prints what has a shell complete commands, flags and values; installs nothing."""

from typing import Annotated, Literal

import typer

Shell = Literal["bash", "zsh", "fish"]


def completion(shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print the completion of a shell, to be read at its start.

    For bash: echo 'eval "$(shoal completion bash)"' >> ~/.bashrc
    For zsh: the same with ~/.zshrc, below the line with compinit.
    For fish: shoal completion fish > ~/.config/fish/completions/shoal.fish
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # comes from a private one

    print(get_completion_script(prog_name="shoal", complete_var="_SHOAL_COMPLETE", shell=shell))
