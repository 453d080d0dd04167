"""A command-line image denoiser on a neural-network engine written from scratch on plain tensors."""
