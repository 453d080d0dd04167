"""`denoise`, and `python -m denoise_cli`."""

from denoise_cli.cli.app import app


def main() -> None:
    """Runs the command line and exits with its code."""
    app(prog_name="denoise")


if __name__ == "__main__":
    main()
