"""Which sample comes when. Pure arithmetic."""
