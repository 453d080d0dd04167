"""Where a batch comes from: sources of pictures, noise models, pairing, batches.

source (clean pictures) -> crop, flip, turn -> noise -> (x, target) -> batch
pickle (pairs that are noisy already)       -> flip, turn -> (x, target) -> batch
"""
