"""Membership cores: presence records, their dissemination, this node's view of the swarm, whom to dial."""
