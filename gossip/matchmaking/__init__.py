"""Matchmaking cores: who averages with whom in a round, and with which share of the work."""
