"""Functional encryption for inner products: of encrypted numbers only a weighted sum opens."""
