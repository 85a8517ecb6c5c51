"""What predictions are worth: metrics, their uncertainty, and the leaderboard of heads."""
