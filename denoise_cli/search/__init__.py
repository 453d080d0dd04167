"""Searches for hyper-parameters: what to try, who tries it, and what came of it."""

from denoise_cli.search.results import Score, draw_results, scores, write_results
from denoise_cli.search.running import Finished, run_search
from denoise_cli.search.settings import Search, load_search
from denoise_cli.search.trials import Trials

__all__ = [
    "Finished",
    "Score",
    "Search",
    "Trials",
    "draw_results",
    "load_search",
    "run_search",
    "scores",
    "write_results",
]
