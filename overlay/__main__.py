"""`python -m overlay`, the same as the command `overlay`."""

from overlay.cli.main import run_command

if __name__ == "__main__":
    run_command()
