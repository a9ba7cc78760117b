"""``python -m trainer.report``: one self-contained page about runs."""
