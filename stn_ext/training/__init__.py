"""What main.py drives: options, data, the training loop, checkpoints and reports."""
