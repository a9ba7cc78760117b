"""Which sample comes when. Arithmetic only: imports nothing of ours."""
