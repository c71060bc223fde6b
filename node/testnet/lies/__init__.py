"""Attackers, to judge the defences with: nodes that lie, and programs of outsiders. No node imports this."""
