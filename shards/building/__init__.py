"""From raw images to tars."""
