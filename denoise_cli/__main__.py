"""`denoise`, and `python -m denoise_cli`."""

import sys

from denoise_cli.cli.stopping import heed_signals, stop_code


def main() -> None:
    """Runs the command line and exits with its code."""
    heed_signals()
    try:
        from denoise_cli.cli.app import app

        app(prog_name="denoise")
    except (KeyboardInterrupt, Exception):  # an import that is broken off may fail with anything
        code = stop_code()
        if code is None:
            raise
        print("stopped", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
