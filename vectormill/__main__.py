"""The command: `vectormill` and `python -m vectormill`."""

import vectormill.own  # noqa: F401 - before anything else of ours


def main() -> None:
    """The console script."""
    from pipelines.cli.signals import listen

    listen()  # loading the rest takes a second, in which Ctrl-C is no traceback either
    from pipelines.cli.app import main as command

    command()


if __name__ == "__main__":
    main()
